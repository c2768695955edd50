"""The calibration beside the weights: when it is used, when it is ignored, and what answers carry."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import pytest

import doctor
from service.application import Application
from service.contract.calibration import Calibration
from service.contract.errors import NotReady, ShuttingDown
from service.contract.request import Verdict
from service.contract.status import CalibrationState, Phase
from service.inference import calibrating
from tests.applications import Build, Hub
from tests.fakes import PATIENCE, PICTURE, YES, FakePredictor, go_on, until

WEIGHTS = b"weights" * 1000
USED = Calibration(2.0, 0.9, 0.6, hashlib.sha256(WEIGHTS).hexdigest())


class FolderHub(Hub):
    """Resolves to one folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __call__(self, model: str, **more: Any) -> Path:
        super().__call__(model, **more)
        return self.folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model folder with weights and their calibration."""
    made = tmp_path / "model"
    made.mkdir()
    (made / "pytorch_model.bin").write_bytes(WEIGHTS)
    calibrate(made)
    return made


def calibrate(folder: Path, **changes: object) -> None:
    written = {
        "format": 1,
        "weights_sha256": USED.weights_sha256,
        "temperature": 2.0,
        "accept": 0.9,
        "review": 0.6,
    }
    path = folder / "calibration.json"
    path.write_text(json.dumps(written | changes))
    path.chmod(0o600)


def loaded(make: Build, folder: Path) -> Application:
    application = make(FakePredictor(), FolderHub(folder))
    application.supervisor.start()
    assert application.supervisor.load() is True
    return application


def answer(application: Application) -> dict[str, Any]:
    return application.submit(PICTURE, "a circle").result(PATIENCE).as_dict()


def test_an_answer_has_raw_and_calibrated_scores_and_a_decision(make: Build, folder: Path) -> None:
    application = loaded(make, folder)
    assert application.snapshot().calibration == CalibrationState("used", calibration=USED)
    verdict = answer(application)
    assert (verdict["label"], verdict["score"], verdict["scores"]) == ("Yes", YES["Yes"], YES)
    assert verdict["calibrated"] == USED.calibrated(YES)
    assert verdict["calibrated"]["Yes"] < YES["Yes"]
    assert verdict["decision"] == "review"


def test_without_a_calibration_an_answer_has_four_fields(make: Build, folder: Path) -> None:
    (folder / "calibration.json").unlink()
    application = loaded(make, folder)
    assert application.snapshot().calibration == CalibrationState()
    assert answer(application).keys() == {"label", "score", "scores", "reason"}


@pytest.mark.parametrize(
    ("changes", "mode", "code"),
    [
        ({"weights_sha256": "0" * 64}, 0o600, "other_weights"),
        ({"temperature": 0}, 0o600, "malformed"),
        ({}, 0o666, "permissions"),
    ],
)
def test_an_unusable_file_is_ignored_with_its_code(
    make: Build,
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    mode: int,
    code: str,
) -> None:
    calibrate(folder, **changes)
    (folder / "calibration.json").chmod(mode)
    application = loaded(make, folder)
    assert application.snapshot().phase is Phase.LOADED
    state = application.snapshot().calibration
    assert (state.state, state.code, state.calibration) == ("ignored", code, None)
    assert "calibrated" not in answer(application)
    lines = [record.getMessage() for record in caplog.records]
    assert any(line.startswith(f"CALIBRATION | OUTCOME=ignored | REASON={code}") for line in lines)


def test_the_next_load_resolves_the_finding_of_an_ignored_file(
    make: Build, folder: Path, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    caplog.set_level(logging.INFO, "service")
    calibrate(folder, temperature=0)
    application = loaded(make, folder)

    def resolved() -> list[bool]:
        lines = [f"2026-11-26 10:00:00 | INFO     | {one.getMessage()}\n" for one in caplog.records]
        (tmp_path / "web_app.log").write_text("".join(lines))
        return [one.resolved for one in doctor.examine(tmp_path) if one.code == "calibration-ignored"]

    assert resolved() == [False]
    calibrate(folder)
    application.supervisor.reload()
    until(lambda: application.snapshot().reloads == 1 and application.snapshot().phase is Phase.LOADED)
    assert resolved() == [True]


def test_a_reload_reads_the_file_again(make: Build, folder: Path) -> None:
    application = loaded(make, folder)
    calibrate(folder, accept=0.65)
    application.supervisor.reload()
    until(lambda: application.snapshot().reloads == 1 and application.snapshot().phase is Phase.LOADED)
    assert answer(application)["decision"] == "accept"
    (folder / "calibration.json").unlink()
    application.supervisor.reload()
    until(lambda: application.snapshot().reloads == 2 and application.snapshot().phase is Phase.LOADED)
    assert "decision" not in answer(application)


def test_a_fallback_has_no_calibrated_scores() -> None:
    assert Verdict.none("timeout").as_dict().keys() == {"label", "score", "scores", "reason", "code"}


def test_a_refusal_of_a_calibrated_service_has_none_either(make: Build, folder: Path) -> None:
    def fail(pairs: object, cancel_point: object) -> Any:
        raise NotReady("The model is gone.")

    application = make(FakePredictor(fail), FolderHub(folder))
    application.supervisor.start()
    assert application.supervisor.load() is True
    verdict = answer(application)
    assert verdict["reason"] is not None
    assert "decision" not in verdict


def test_the_weights_are_not_hashed_without_a_calibration(folder: Path) -> None:
    def asked(path: Path) -> str:
        raise AssertionError("asked for a checksum")

    (folder / "calibration.json").unlink()
    assert calibrating.read(folder, asked, go_on) == CalibrationState()


def test_a_checksum_from_the_hub_is_not_computed_again(folder: Path) -> None:
    calibrate(folder, weights_sha256="1" * 64)
    assert calibrating.read(folder, lambda path: "1" * 64, go_on).state == "used"


def test_the_checksum_is_of_the_weights_that_the_loader_takes(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"preferred")
    assert calibrating.read(folder, lambda path: None, go_on).code == "other_weights"
    calibrate(folder, weights_sha256=hashlib.sha256(b"preferred").hexdigest())
    assert calibrating.read(folder, lambda path: None, go_on).state == "used"


def test_hashing_stops_with_the_service(folder: Path) -> None:
    def stop() -> None:
        raise ShuttingDown("The service is stopping.")

    with pytest.raises(ShuttingDown):
        calibrating.read(folder, lambda path: None, stop)

"""The operator's side of the service: restarts as the guardian wrote them, findings, the GPU's cache."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from PIL import Image

from service.contract.causes import GuardianEvent, RestartCause
from service.contract.errors import InputError
from service.contract.protocols import Model
from service.contract.status import Snapshot, Status
from service.health.resources import Resources, Use
from service.operations import FINDINGS_SECONDS, Finding, Operations
from service.process import restart_log as restarts
from service.telemetry.gauges import read_restarts
from service.telemetry.history import History
from service.telemetry.reporter import Reporter
from tests.applications import Build
from tests.doctor.record import LOGS
from tests.fakes import PATIENCE, Clock, FakeGpuModel, FakePredictor, until

LINES = """2026-11-22 20:00:00 [ALERT] CAUSE=hung restart 1 of 5: process 7 is hung: /livez failed
    | 2026-11-22 19:59:58 | ERROR    | a line of the log, quoted
2026-11-22 20:00:09 [SUCCESS] CAUSE=healthy healthy 8 s after its start
2026-11-22 20:01:09 [SUCCESS] CAUSE=recovered recovered: healthy for 60 s
"""


# ---- restarts --------------------------------------------------------------------------------------------


def test_restarts_are_told_newest_first_without_the_lines_they_quote(tmp_path: Path) -> None:
    (tmp_path / "restart.log").write_text(LINES)
    found = restarts.read(tmp_path)
    assert [one.level for one in found] == ["SUCCESS", "SUCCESS", "ALERT"]
    assert found[-1] == restarts.Restart(
        "2026-11-22 20:00:00",
        "ALERT",
        "hung",
        "restart 1 of 5: process 7 is hung: /livez failed",
    )


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00 garbage", b"2026-11-22 20:00:00 [ALERT"])
def test_a_file_that_cannot_be_made_sense_of_tells_nothing(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "restart.log").write_bytes(content)
    assert restarts.read(tmp_path) == []


def test_a_long_file_is_read_from_its_end_and_the_rotated_one_after_it(tmp_path: Path) -> None:
    old = "2026-11-21 10:00:00 [FATAL] CAUSE=gave_up gave up\n"
    (tmp_path / "restart.log.1").write_text(old)
    (tmp_path / "restart.log").write_text(LINES)
    assert [one.level for one in restarts.read(tmp_path)][-1] == "FATAL"
    (tmp_path / "restart.log").write_text(old + "    | quoted\n" * 20_000 + LINES)
    assert [one.level for one in restarts.read(tmp_path, keep=3)] == ["SUCCESS", "SUCCESS", "ALERT"]
    (tmp_path / "restart.log").write_text(LINES * 500)
    assert len(restarts.read(tmp_path)) == restarts.KEPT


@pytest.mark.parametrize(
    "folder", sorted(path.parent for path in LOGS.glob("*/restart_counts")), ids=lambda folder: folder.name
)
def test_a_restarts_cause_is_the_one_that_the_guardian_counted(folder: Path) -> None:
    found = [one.kind for one in restarts.read(folder) if re.match(r"restart \d|restarting ", one.text)]
    assert Counter(found) == read_restarts(folder / "restart_counts")


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("CAUSE=hung restart 1 of 5: process 7 is hung; it ran 2 min: CAUSE=signal", RestartCause.HUNG),
        ("CAUSE=signal SIGNAL=9 restart 1 of 5: process 7 killed by signal 9", RestartCause.SIGNAL),
        ("CAUSE=gave_up gave up after 5 failed restarts in a row", GuardianEvent.GAVE_UP),
        ("CAUSE=of_a_later_version restart 1 of 5: process 7 something new", RestartCause.OTHER),
    ],
)
def test_a_line_is_about_what_its_code_says(tmp_path: Path, line: str, kind: str) -> None:
    (tmp_path / "restart.log").write_text(f"2026-11-22 20:00:00 [ALERT] {line}\n")
    (found,) = restarts.read(tmp_path)
    assert found.kind is kind
    assert "CAUSE" not in found.text.partition(";")[0]


# ---- operations ------------------------------------------------------------------------------------------


class Sampled:
    """A sampler whose only sample is given."""

    def __init__(self, gpu: Use | None) -> None:
        self.sample = Resources(0.0, Use(1, 2), "host", Use(1, 2), gpu)

    def latest(self) -> Resources:
        return self.sample


def operations_of(
    tmp_path: Path,
    *,
    model: Model | None = None,
    gpu: Use | None = None,
    examine: Callable[[], Sequence[Finding]] = tuple,
    clock: Clock | None = None,
) -> Operations:
    status, sampler = Status(Snapshot()), Sampled(gpu)
    return Operations(
        reporter=Reporter(status, sampler, 90.0),  # type: ignore[arg-type]
        status=status,
        sampler=sampler,  # type: ignore[arg-type]
        history=History(status.snapshot, sampler.latest, evidence_ttl=90.0),
        model=model or FakePredictor(),
        probe_now=lambda: True,
        run_dir=tmp_path,
        examine=examine,
        clock=clock or Clock(),
    )


def test_without_a_gpu_there_is_no_cache_to_empty(tmp_path: Path) -> None:
    assert operations_of(tmp_path).empty_cache() is None
    model = FakeGpuModel()
    assert operations_of(tmp_path, model=model).empty_cache() is None
    assert model.events == []


def test_emptying_the_cache_tells_what_was_given_back(tmp_path: Path) -> None:
    model = FakeGpuModel()
    model.crowd = (500, 200)
    assert operations_of(tmp_path, model=model, gpu=Use(1, 2)).empty_cache() == 300
    assert model.events == ["empty cache"]


def test_logs_are_examined_seldom_whoever_asks(tmp_path: Path) -> None:
    clock, examined = Clock(), list[int]()

    def examine() -> Sequence[Finding]:
        examined.append(1)
        return ()

    operations = operations_of(tmp_path, examine=examine, clock=clock)
    assert operations.findings() == operations.findings() == ()
    assert len(examined) == 1
    clock.move(FINDINGS_SECONDS + 1)
    operations.findings()
    assert len(examined) == 2


def test_the_application_keeps_what_it_was_asked_and_how_that_ended(make: Build) -> None:
    application = make()
    assert application.supervisor.load()
    picture = Image.new("RGB", (64, 48))
    future = application.submit(picture, "a secret", source="page")
    assert future.result(PATIENCE).reason is None
    with pytest.raises(InputError):
        application.submit(None, "a secret")
    until(lambda: len(application.operations.view().requests) >= 2)  # told of after the answer is out
    view = application.operations.view().requests
    refused, answered = sorted(view, key=lambda one: one.outcome == "answered")
    assert (refused.outcome, refused.source, refused.chars) == ("no_image", "api", 8)
    assert refused.id.startswith("req_")
    assert (answered.source, answered.label, answered.size, answered.chars) == ("page", "Yes", (64, 48), 8)
    assert "secret" not in repr(view)


def test_of_what_was_refused_all_that_is_known_is_kept(make: Build, tmp_path: Path) -> None:
    application = make(max_pixels=3000, max_chars=20)
    noise = io.BytesIO()
    Image.effect_noise((50, 40), 90).save(noise, "PNG")  # does not compress: its end is cut off below
    (tmp_path / "cut.png").write_bytes(noise.getvalue()[:-200])
    cases: list[tuple[object, object, object, tuple[str, int, tuple[int, int]]]] = [
        (Image.new("RGB", (64, 48)), "a secret", "and more", ("image_too_large", 16, (64, 48))),
        (Image.new("RGB", (8, 6)), "a secret" * 4, None, ("text_too_long", 32, (0, 0))),
        (tmp_path / "cut.png", "a secret", None, ("image_truncated", 8, (50, 40))),
        (tmp_path / "none.png", 7, None, ("no_text", 0, (0, 0))),
    ]
    assert application.submit(Image.new("RGB", (8, 6)), "too soon").result(0).reason == "loading"
    assert application.supervisor.load()
    for image, text, premise, _ in cases:
        with pytest.raises(InputError):
            application.submit(image, text, premise)  # type: ignore[arg-type]
    kept = application.operations.view().requests
    assert [(one.outcome, one.chars, one.size) for one in reversed(kept)] == [
        ("loading", 8, (0, 0)),
        *(expected for *_, expected in cases),
    ]
    assert len({one.id for one in kept}) == len(kept)
    assert "secret" not in repr(kept)

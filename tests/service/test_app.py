"""The application as page, scripts and health API see it, over a fake model and a fake hub."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from service.build import PROBE_TEXT, build
from service.contract.errors import (
    DeviceLost,
    InputError,
    ModelNotFound,
)
from service.contract.protocols import CancelPoint
from service.contract.request import Pair, VerdictFuture
from service.contract.status import Phase
from service.health import resources
from service.hub.progress import Progress
from service.hub.resolve import shown_name
from service.intake.reader_process import ReaderProcess
from service.intake.readers import Readers
from service.settings import DEFAULT_MODEL, Settings
from tests.applications import Build, Hub
from tests.fakes import NO, PATIENCE, PICTURE, YES, FakePredictor, Gate, until
from tests.stand_in_reader import Desk, stand_in

# ---- loading ---------------------------------------------------------------------------------------------


def test_building_starts_and_loads_nothing(make: Build) -> None:
    threads = set(threading.enumerate())
    hub = Hub()
    application = make(hub=hub)
    assert set(threading.enumerate()) <= threads
    assert hub.asked == []
    assert application.snapshot().phase is Phase.UNINITIALIZED
    assert application.report().details["model"] == "uninitialized"


def test_a_loaded_model_is_proven_by_a_probe_and_answers(make: Build) -> None:
    model = FakePredictor()
    application = make(model)
    application.supervisor.start()
    until(lambda: application.report().healthy)
    assert model.loaded_from == Path("/models") / DEFAULT_MODEL
    assert model.seen == [PROBE_TEXT]
    snapshot = application.snapshot()
    assert (snapshot.phase, snapshot.device, snapshot.dtype) == (Phase.LOADED, "cpu", "fp32")
    verdict = application.submit(PICTURE, "a red picture").result(PATIENCE)
    assert verdict.as_dict() == {"label": "Yes", "score": 0.9, "scores": YES, "reason": None}


def test_scripts_load_by_themselves_and_twice_is_once(make: Build) -> None:
    hub = Hub()
    application = make(hub=hub)
    assert application.supervisor.load() is True
    assert application.supervisor.load() is True
    assert hub.asked == ["quick"]


def test_while_loading_requests_are_answered_so_and_progress_is_told(make: Build) -> None:
    arrived, go = threading.Event(), threading.Event()

    class SlowHub(Hub):
        def __call__(self, model: str, **more: object) -> Path:
            folder = super().__call__(model, **more)  # type: ignore[arg-type]
            arrived.set()
            assert go.wait(PATIENCE)
            return folder

    application = make(hub=SlowHub())
    assert application.submit(PICTURE, "a").result(0).reason == "loading"
    application.supervisor.start()
    assert arrived.wait(PATIENCE)
    progress = application.snapshot().progress
    assert (progress.message, progress.done_bytes, progress.total_bytes) == (
        "fetching pytorch_model.bin",
        5,
        10,
    )
    assert application.submit(None, None).result(0).reason == "loading"
    assert not application.report().startup.ok
    go.set()
    until(lambda: application.report().startup.ok)


# ---- requests --------------------------------------------------------------------------------------------


def test_input_that_cannot_be_judged_is_an_error_and_not_a_maybe(make: Build, tmp_path: Path) -> None:
    application = make(max_chars=20)
    application.supervisor.load()
    cases: list[tuple[object, object, object, str]] = [
        (None, "a", None, "no_image"),
        (PICTURE, "", None, "no_text"),
        (PICTURE, "x" * 21, None, "text_too_long"),
        (PICTURE, "a", "x" * 21, "text_too_long"),
        (tmp_path, "a", None, "not_an_image"),
    ]
    for image, text, premise, code in cases:
        with pytest.raises(InputError) as caught:
            application.submit(image, text, premise)  # type: ignore[arg-type]
        assert caught.value.code == code


def test_the_model_gets_clean_texts(make: Build) -> None:
    seen: list[Pair] = []

    def keep(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        seen.extend(pairs)
        return [NO]

    application = make(FakePredictor(keep))
    application.supervisor.load()
    verdict = application.submit(PICTURE, " a\u200b red\ud800 ", "\x00men\x00").result(PATIENCE)
    assert verdict.label == "No"
    (asked,) = [pair for pair in seen if pair.hypothesis != PROBE_TEXT]  # a probe may come at any moment
    assert (asked.hypothesis, asked.premise, asked.image.size) == ("a red", "men", (16, 16))


def test_a_premise_the_model_cannot_take_is_refused_and_one_it_needs_is_asked_for(make: Build) -> None:
    model = FakePredictor()
    application = make(model)
    application.supervisor.load()
    for takes, premise, code in [(False, "men", "premise_refused"), (True, None, "premise_needed")]:
        model.takes_premise = takes
        with pytest.raises(InputError) as caught:
            application.submit(PICTURE, "a", premise)
        assert caught.value.code == code
    assert application.submit(PICTURE, "a", "men").result(PATIENCE).label == "Yes"


@pytest.mark.parametrize(
    ("language", "setting", "codes"),
    [
        ("en", "auto", [None, "language"]),
        ("zh", "auto", ["language", None]),
        ("xx", "auto", [None, None]),
        (None, "auto", [None, None]),
        ("en", "any", [None, None]),
    ],
)
def test_texts_are_held_to_the_language_of_the_model(
    make: Build, language: str | None, setting: str, codes: list[str | None]
) -> None:
    model = FakePredictor()
    model.language = language
    application = make(model, language=setting)
    application.supervisor.load()

    def code(text: str, premise: str | None) -> str | None:
        try:
            return application.submit(PICTURE, text, premise).result(PATIENCE).reason
        except InputError as error:
            return error.code

    for premise in (None, "42"):
        assert [code("a red circle", premise), code("一个红色的圆", premise)] == codes
    assert [code("42", "a red circle"), code("42", "一个红色的圆")] == codes
    until(lambda: application.report().healthy)  # by the probe, whatever the model's language


def test_a_model_of_two_texts_is_probed_with_two(make: Build) -> None:
    model = FakePredictor()
    model.takes_premise = True
    application = make(model)
    application.supervisor.load()
    until(lambda: application.report().healthy)


def test_a_full_queue_is_answered_busy_before_any_decoding(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate()
    model = FakePredictor()
    application = make(model, queue_size=1)
    application.supervisor.load()
    until(lambda: application.report().healthy)
    model.behave = gate
    application.submit(PICTURE, "running")
    assert gate.entered.wait(PATIENCE)
    application.submit(PICTURE, "waiting")

    def decode(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("service.intake.image.converted", decode)
    verdict = application.submit(PICTURE, "refused").result(0)
    assert (verdict.reason, verdict.code) == ("busy", "queue_full")
    assert verdict.as_dict()["code"] == "queue_full"
    assert verdict.retry_after is not None
    report = application.report()
    assert (report.ready.ok, report.live.ok, report.healthy) == (False, True, True)
    gate.opened.set()


def test_the_time_limit_counts_from_arrival_and_is_answered_as_a_timeout(make: Build, tmp_path: Path) -> None:
    gate = Gate()
    model = FakePredictor()
    application = make(model, timeout=0.5)
    application.supervisor.load()
    until(lambda: application.report().healthy)
    model.behave = gate

    def expired_inside() -> bool:
        verdict = application.submit(PICTURE, "slow").result(PATIENCE)
        assert (verdict.label, verdict.score, verdict.reason) == ("Maybe", 0.5, "timeout")
        return gate.entered.is_set()

    until(expired_inside)  # on a slow machine it may expire before the model has it
    assert gate.left.wait(PATIENCE)


def test_a_lack_of_memory_ends_one_request_and_nothing_else(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*_: object, **__: object) -> None:
        raise MemoryError

    application = make()
    application.supervisor.load()
    with monkeypatch.context() as patched:
        patched.setattr("service.intake.image.converted", greedy)
        assert application.submit(PICTURE, "a").result(0).reason == "error"
    assert application.submit(PICTURE, "a").result(PATIENCE).label == "Yes"


# ---- pictures that are slow to read ----------------------------------------------------------------------


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    """Applications that are made have readers which read a picture when the test says so."""
    monkeypatch.setattr("service.build.Readers", partial(Readers, make=stand_in))
    return Desk(tmp_path)


def test_a_picture_file_is_read_in_another_process_to_the_model_s_size(make: Build, tmp_path: Path) -> None:
    seen: list[Pair] = []

    def keep(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        seen.extend(pairs)
        return [NO]

    application = make(FakePredictor(keep))
    application.supervisor.load()
    Image.new("RGB", (70, 30), (1, 200, 3)).save(tmp_path / "a.png")
    application.submit(tmp_path / "a.png", "a").result(PATIENCE)
    (asked,) = [pair for pair in seen if pair.hypothesis != PROBE_TEXT]
    assert (asked.image.mode, asked.image.size) == ("RGB", (16, 16))
    assert asked.image.getpixel((8, 8)) == (1, 200, 3)


def test_a_probe_waits_for_no_reader(make: Build, desk: Desk) -> None:
    application = make(probe_interval=0.05, timeout=PATIENCE)
    application.supervisor.load()
    with ThreadPoolExecutor() as callers:
        asked = [
            callers.submit(application.submit, desk.picture(name), "a", caller=name)
            for name in ("a", "b", "c", "d", "e")
        ]
        until(lambda: len(desk.reading()) == 4)
        probes = application.snapshot().evidence.probes
        until(lambda: application.snapshot().evidence.probes > probes + 1)
        desk.finish("a", "b", "c", "d", "e")
        assert [one.result(PATIENCE).result(PATIENCE).label for one in asked] == ["Yes"] * 5


def test_the_time_limit_counts_from_the_arrival_in_the_handler(
    make: Build, desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    """However long a request has waited before it came here, it is answered by its deadline."""
    application = make(timeout=15.0)
    application.supervisor.load()
    arrived = time.monotonic() - 16
    verdict = application.submit(desk.picture("late"), "abcde", arrived=arrived).result(0)
    assert (verdict.reason, verdict.duration > 16) == ("timeout", True)
    assert desk.reading() == set(), "nothing was read for it"
    (line,) = [r.getMessage() for r in caplog.records if r.name == "slow_requests"]
    assert line.split("\t")[1:3] == ["TIMEOUT", "5 chars"]
    assert line.split("\t")[4] == "decoding"


def test_a_picture_that_takes_too_long_is_answered_at_the_deadline(make: Build, desk: Desk) -> None:
    model = FakePredictor()
    application = make(model, timeout=2.0)
    application.supervisor.load()
    assert application.submit(desk.picture("slow"), "slow").result(0).reason == "timeout"
    assert "slow" not in model.seen


def test_who_goes_away_while_his_picture_is_read_is_not_judged(make: Build, desk: Desk) -> None:
    model = FakePredictor()
    application = make(model)
    application.supervisor.load()
    with ThreadPoolExecutor() as callers:
        for name, begun in (("read", True), ("waits", False)):
            future = VerdictFuture()
            asked = callers.submit(application.submit, desk.picture(name), name, caller="A", future=future)
            until(lambda name=name, begun=begun: not begun or name in desk.reading())
            future.cancel()
            assert asked.result(PATIENCE) is future
    until(lambda: application.snapshot().reading.busy == 0)
    assert set(model.seen) <= {PROBE_TEXT}


def test_nothing_about_pictures_makes_the_service_unlive(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start() -> ReaderProcess:
        raise OSError("no room")

    monkeypatch.setattr("service.build.Readers", partial(Readers, make=start))
    application = make()
    application.supervisor.start()
    until(lambda: application.report().healthy)
    until(lambda: application.snapshot().reading.left == 0)
    report = application.report()
    assert (report.ready.ok, report.live.ok, report.healthy) == (False, True, True)
    assert report.ready.reason.startswith("readers")


def test_a_users_answer_is_evidence(make: Build) -> None:
    application = make()
    application.supervisor.load()
    until(lambda: application.report().healthy)
    application.submit(PICTURE, "a").result(PATIENCE)
    until(lambda: application.snapshot().evidence.proven_by == "user")


def test_a_model_that_stops_answering_turns_unhealthy_by_itself_and_back(make: Build) -> None:
    model = FakePredictor()
    application = make(model, probe_interval=0.05, probe_timeout=0.5)
    application.supervisor.load()
    until(lambda: application.report().healthy)
    gate = model.behave = Gate()
    until(lambda: application.report().details["inference"] == "timeout")
    assert application.report().live.ok
    gate.opened.set()
    until(lambda: application.report().healthy)


def test_a_lost_device_ends_the_service_with_71(make: Build) -> None:
    def lose(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        raise DeviceLost("The CUDA context is lost.")

    model = FakePredictor()
    application = make(model)
    application.supervisor.load()
    until(lambda: application.report().healthy)
    model.behave = lose
    assert application.submit(PICTURE, "a").result(PATIENCE).reason == "error"
    assert application.supervisor.wait(PATIENCE)
    assert application.supervisor.fatal == 71
    assert not application.report().live.ok


# ---- stopping --------------------------------------------------------------------------------------------


def test_a_stop_answers_what_runs_and_refuses_what_comes_and_says_so(make: Build, tmp_path: Path) -> None:
    gate = Gate()
    model = FakePredictor()
    application = make(model)
    application.supervisor.load()
    until(lambda: application.report().healthy)
    model.behave = gate
    running = application.submit(PICTURE, "running")
    assert gate.entered.wait(PATIENCE)
    stopper = threading.Thread(target=application.supervisor.stop, args=(PATIENCE,))
    stopper.start()
    until(lambda: application.snapshot().phase is Phase.STOPPING)
    assert application.submit(PICTURE, "refused").result(0).reason == "stopping"
    assert application.report().live.ok
    gate.opened.set()
    stopper.join(PATIENCE)
    assert running.result(0).label == "Yes"
    assert model.loaded_from is None
    told = json.loads((tmp_path / "last_exit.json").read_text())
    assert (told["pid"], told["code"], told["reason"]) == (os.getpid(), 0, "asked to end")
    assert told["start_ticks"] > 0
    assert application.supervisor.stop(0.0) is True  # a second time does nothing


def test_a_stop_while_loading_ends_the_download(make: Build, tmp_path: Path) -> None:
    class Endless(Hub):
        def __call__(self, model: str, *, progress: Callable[[Progress], None], **_: object) -> Path:
            while True:
                progress(Progress("pytorch_model.bin", 1, 10))
                time.sleep(0.002)

    application = make(hub=Endless())
    application.supervisor.start()
    until(lambda: application.snapshot().progress.total_bytes == 10)
    until(lambda: application.supervisor.stop(0.0))  # True once the loader's thread has ended
    assert application.supervisor.fatal is None


def test_a_stop_after_a_failure_says_which(make: Build, tmp_path: Path) -> None:
    application = make(hub=Hub(ModelNotFound("There is no such model.")))
    application.supervisor.load()
    application.supervisor.stop(0.0)
    told = json.loads((tmp_path / "last_exit.json").read_text())
    assert (told["code"], told["reason"]) == (78, "There is no such model.")


def test_the_caller_may_say_why_it_ends(make: Build, tmp_path: Path) -> None:
    application = make()
    application.supervisor.stop(0.0, code=78, reason="The port is taken.")
    told = json.loads((tmp_path / "last_exit.json").read_text())
    assert (told["code"], told["reason"]) == (78, "The port is taken.")


def test_a_folder_that_cannot_be_written_does_not_keep_the_process(make: Build, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    application = build(Settings(run_dir=tmp_path / "file" / "x"), model=FakePredictor(), resolve=Hub())
    assert application.supervisor.stop(0.0) is True


def test_a_local_folder_is_shown_by_its_name_alone(tmp_path: Path) -> None:
    (tmp_path / "my model").mkdir()
    assert shown_name(str(tmp_path / "my model")) == "my model"
    assert shown_name("iic/ofa") == "iic/ofa"


def test_the_disk_of_uploads_counts_like_that_of_the_logs(
    make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    temporary = tmp_path / "temporary"
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    monkeypatch.setattr(
        resources, "disk_use", lambda folder: resources.Use(95 if folder == temporary else 5, 100)
    )
    assert make().report().details["disk"] == "critical"

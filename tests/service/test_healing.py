"""What the application does about itself: reload, degrade, hang, reach its memory limit."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import pytest

import web_app
from service.build import Application
from service.contract.errors import (
    MemoryLimitReached,
    UnusableWeights,
)
from service.contract.status import Phase
from service.health.memory_limit import MemoryLimit
from service.health.prober import UNSTABLE_LIMIT
from service.health.resources import Resources, Use
from tests.applications import Build, Hub
from tests.fakes import (
    NO,
    PATIENCE,
    PICTURE,
    YES,
    FakeConvertingModel,
    FakeGpuModel,
    FakePredictor,
    Gate,
    until,
)

NAN = {"Yes": float("nan"), "No": 0.5, "Maybe": 0.5}


@pytest.fixture
def make(make: Build) -> Build:
    """Applications that probe often and soon try the GPU again."""
    return partial(make, probe_interval=0.05, retry_gpu_pause=0.05)


class Weights(FakePredictor):
    """Answers what its weights say; loading them anew mends them, ``mends`` times."""

    def __init__(self, mends: int) -> None:
        super().__init__(lambda pairs, cancel: [self.scores for _ in pairs])
        self.scores: Mapping[str, float] = YES
        self.mends = mends
        self.loads = 0

    def load(self, folder: Path) -> None:
        super().load(folder)
        self.loads += 1
        if self.loads > 1 and self.mends > 0:
            self.mends -= 1
            self.scores = YES


# ---- the golden probe ------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", [NO, NAN], ids=["another label", "not finite"])
def test_a_model_that_probes_wrongly_is_loaded_again_from_verified_files(
    make: Build, wrong: Mapping[str, float]
) -> None:
    model, hub = Weights(mends=1), Hub()
    application = make(model, hub)
    application.supervisor.start()
    until(lambda: application.report().healthy)
    model.scores = wrong
    until(lambda: application.snapshot().reloads == 1)
    until(lambda: application.report().healthy)
    assert hub.asked == ["quick", "full"]
    assert model.loads == 2
    assert application.supervisor.fatal is None
    assert application.submit(PICTURE, "a").result(PATIENCE).label == "Yes"


def test_while_it_is_loaded_again_that_is_seen_and_requests_are_answered_so(make: Build) -> None:
    arrived, go = threading.Event(), threading.Event()

    class SlowSecondTime(Hub):
        def __call__(self, model: str, **more: object) -> Path:
            folder = super().__call__(model, **more)  # type: ignore[arg-type]
            if len(self.asked) == 2:
                arrived.set()
                assert go.wait(PATIENCE)
            return folder

    model = Weights(mends=1)
    application = make(model, SlowSecondTime())
    application.supervisor.start()
    until(lambda: application.report().healthy)
    model.scores = NO
    assert arrived.wait(PATIENCE)
    report = application.report()
    assert (report.details["model"], report.healthy) == ("loading", False)
    assert (report.live.ok, report.startup.ok, report.ready.ok) == (True, True, False)
    assert application.submit(PICTURE, "a").result(0).reason == "loading"
    go.set()
    until(lambda: application.report().healthy)


def test_a_script_that_asks_during_a_reload_does_not_wait_for_it(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrived, go = threading.Event(), threading.Event()

    class SlowSecondTime(FakePredictor):
        def load(self, folder: Path) -> None:
            if self.loaded_from is not None:
                arrived.set()
                assert go.wait(PATIENCE)
            super().load(folder)

    application = make(SlowSecondTime())
    monkeypatch.setattr(web_app, "_application", application)
    answers: list[object] = []
    asking = threading.Thread(target=lambda: answers.append(web_app.predict(PICTURE, "a")["code"]))
    try:
        assert web_app.init_model() is True
        application.supervisor.reload()
        assert arrived.wait(PATIENCE)
        asking.start()
        until(lambda: bool(answers))
        assert answers == ["loading"]
    finally:
        go.set()
    assert web_app.init_model() is True
    assert web_app.predict(PICTURE, "a")["label"] == "Yes"


def test_a_model_that_a_reload_does_not_mend_ends_the_process_with_1(make: Build, tmp_path: Path) -> None:
    model, hub = Weights(mends=0), Hub()
    application = make(model, hub)
    application.supervisor.start()
    until(lambda: application.report().healthy)
    model.scores = NAN
    assert application.supervisor.wait(PATIENCE)
    assert application.supervisor.fatal == 1
    assert hub.asked == ["quick", "full"]
    assert application.snapshot().phase is Phase.FAILED
    application.supervisor.stop(0.0)
    told = json.loads((tmp_path / "last_exit.json").read_text())
    assert told["code"] == 1


def test_healed_weights_are_not_judged_by_the_label_of_the_damaged_ones(make: Build) -> None:
    """The files were damaged from the start; their label was kept."""
    model, hub = Weights(mends=1), Hub(damaged=["pytorch_model.bin"])
    model.scores = NO
    application = make(model, hub)
    application.supervisor.start()
    until(lambda: application.report().healthy)
    model.scores = NAN
    until(lambda: application.snapshot().reloads == 1)
    until(lambda: application.report().healthy)
    assert hub.asked == ["quick", "full"]
    assert (application.snapshot().evidence.label, application.supervisor.fatal) == ("Yes", None)


def test_damaged_converted_weights_are_weights_too(make: Build) -> None:
    class Converted(Weights, FakeConvertingModel):
        sound = False

    model = Converted(mends=1)
    model.scores = NO
    application = make(model)
    application.supervisor.start()
    until(lambda: application.report().healthy)
    model.scores = NAN
    until(lambda: application.snapshot().reloads == 1)
    until(lambda: application.report().healthy)
    assert application.snapshot().evidence.label == "Yes"


def test_another_label_from_files_that_are_whole_is_the_devices_fault(make: Build) -> None:
    """The twin of the two before: nothing was damaged, so the label that was kept still holds."""
    model, hub = Weights(mends=1), Hub()
    model.scores = NO
    application = make(model, hub)
    application.supervisor.start()
    until(lambda: application.report().healthy)
    model.scores = NAN
    assert application.supervisor.wait(PATIENCE)
    assert application.supervisor.fatal == 1
    assert hub.asked == ["quick", "full"]


def test_a_model_that_never_gave_a_number_ends_the_process_with_78(make: Build) -> None:
    """Its twin is the test before: there it had, so that a new process may."""
    model, hub = Weights(mends=0), Hub()
    model.scores = NAN
    application = make(model, hub)
    application.supervisor.start()
    assert application.supervisor.wait(PATIENCE)
    assert application.supervisor.fatal == UnusableWeights.exit_code == 78
    assert hub.asked == ["quick", "full"]


def test_a_mended_model_may_be_mended_again_later(make: Build) -> None:
    model = Weights(mends=2)
    application = make(model)
    application.supervisor.start()
    for reloads in (1, 2):
        until(lambda: application.report().healthy)
        model.scores = NO
        until(lambda reloads=reloads: application.snapshot().reloads == reloads)
    until(lambda: application.report().healthy)
    assert application.supervisor.fatal is None


def test_what_is_known_to_be_wrong_is_not_asked_again_before_it_is_mended(make: Build) -> None:
    model = Weights(mends=1)
    application = make(model)
    application.supervisor.start()
    until(lambda: application.report().healthy)
    with application.supervisor._loading:  # the reload is late
        model.scores = NO
        until(lambda: application.snapshot().evidence.unstable >= UNSTABLE_LIMIT)
        time.sleep(0.3)  # six times as long as probes are apart
        assert application.snapshot().evidence.unstable == UNSTABLE_LIMIT
    until(lambda: application.report().healthy)


def test_fewer_than_the_limit_of_wrong_probes_reload_nothing(make: Build) -> None:
    wrong = iter([YES, *[NO] * (UNSTABLE_LIMIT - 1)])
    model, hub = FakePredictor(lambda pairs, cancel: [next(wrong, YES)]), Hub()
    application = make(model, hub)
    application.supervisor.start()
    until(lambda: application.snapshot().evidence.probes > UNSTABLE_LIMIT + 1)
    assert application.report().healthy
    assert hub.asked == ["quick"]


# ---- memory ----------------------------------------------------------------------------------------------


def test_a_service_on_the_cpu_for_want_of_gpu_memory_is_degraded_and_ready(make: Build) -> None:
    full = threading.Event()
    model = FakeGpuModel(lambda device, size: device == "cpu" or not full.is_set())
    application = make(model)
    application.supervisor.start()
    until(lambda: application.report().healthy)
    full.set()
    verdict = application.submit(PICTURE, "a").result(PATIENCE)
    assert (verdict.label, verdict.device, verdict.reason) == ("Yes", "cpu", None)
    snapshot = application.snapshot()
    assert snapshot.degraded == "computing on the CPU: the memory of cuda:0 is full"
    assert snapshot.device == "cpu"
    report = application.report()
    assert (report.ready.ok, report.live.ok) == (True, True)
    full.clear()
    until(lambda: application.snapshot().degraded is None)
    assert application.snapshot().device == "cuda:0"
    assert application.submit(PICTURE, "a").result(PATIENCE).device == "cuda:0"


def sample(rss: int) -> Resources:
    return Resources(at=0.0, memory=Use(1, 10), memory_by="host", disk=Use(1, 10), process_memory=rss)


class Limited:
    """A memory limit, what it did, and the GPU memory held."""

    def __init__(self, **limits: int) -> None:
        self.did: list[object] = []
        self.held = 0
        self.limit = MemoryLimit(
            **({"rss": 0, "gpu": 0} | limits),
            held=lambda: self.held,
            empty_cache=lambda: self.did.append("emptied"),
            on_reached=self.did.append,
        )


def test_over_its_limit_the_caches_are_emptied_first() -> None:
    limited = Limited(rss=100)
    for rss in (100, 101, 99, 101, 50):
        limited.limit.check(sample(rss))
    assert limited.did == ["emptied", "emptied"]


@pytest.mark.parametrize("limits", [{"rss": 100 << 20}, {"gpu": 100 << 20}])
def test_what_an_emptied_cache_does_not_mend_ends_the_process_once(limits: dict[str, int]) -> None:
    limited = Limited(**limits)
    limited.held = 200 << 20
    for _ in range(4):
        limited.limit.check(sample(200 << 20))
    emptied, reached = limited.did
    assert emptied == "emptied"
    assert isinstance(reached, MemoryLimitReached)
    assert "200 MiB, over the limit of 100 MiB" in reached.message
    assert reached.exit_code == 75


def test_without_a_limit_nothing_is_done() -> None:
    limited = Limited()
    limited.held = 1 << 40
    limited.limit.check(sample(1 << 40))
    limited.limit.check(sample(1 << 40))
    assert limited.did == []


def test_the_limit_drains_and_leaves_with_75(make: Build, tmp_path: Path) -> None:
    gate = Gate()
    model = FakePredictor()
    application = make(model)
    application.supervisor.load()
    until(lambda: application.report().healthy)
    model.behave = gate
    running = application.submit(PICTURE, "running")
    assert gate.entered.wait(PATIENCE)
    application.supervisor.restart_needed(MemoryLimitReached("The resident memory is 3 MiB."))
    assert application.supervisor.wait(PATIENCE)
    assert application.supervisor.fatal == 75
    assert application.submit(PICTURE, "a").result(0).reason == "stopping"
    gate.opened.set()
    assert application.supervisor.stop(PATIENCE) is True
    assert running.result(0).label == "Yes"
    told = json.loads((tmp_path / "last_exit.json").read_text())
    assert (told["code"], told["reason"]) == (75, "The resident memory is 3 MiB.")


# ---- a computation that never ends -----------------------------------------------------------------------


def get_stuck(application: Application, gate: Gate, text: str) -> None:
    """Ask until the model has the question: with so short a limit one may expire on its way there."""

    def inside() -> bool:
        assert application.submit(PICTURE, text).result(PATIENCE).reason is not None
        return gate.entered.is_set()

    until(inside)


def test_a_hung_process_leaves_a_post_mortem_and_goes(make: Build, tmp_path: Path) -> None:
    secret = "a private sentence nobody may read"
    left: list[int] = []
    gone = threading.Event()

    def leave(code: int) -> None:
        left.append(code)
        gone.set()

    model = FakePredictor()
    application = make(
        model, exit_now=leave, probe_interval=60, timeout=0.5, cancel_grace=0.05, hang_limit=0.1
    )
    application.supervisor.start()
    until(lambda: application.report().healthy)
    until(lambda: application.submit(PICTURE, secret).result(PATIENCE).reason is None)
    gate = model.behave = Gate(listens=False)
    try:
        get_stuck(application, gate, secret)
        assert gone.wait(PATIENCE)
        assert left == [70]
        assert not application.report().live.ok
        told = json.loads((tmp_path / "last_exit.json").read_text())
        assert told["code"] == 70
        (path,) = tmp_path.glob("postmortem-*.txt")
        text = path.read_text()
        assert "engine (thread" in text
        assert "fakes.py" in text  # where the engine's thread is stuck
        assert "not_cancelling=True" in text
        assert f"api: {len(secret)} chars, 8x6, answered" in text
        assert f"api: {len(secret)} chars, 8x6, timeout" in text
        assert "private" not in text
    finally:
        gate.opened.set()


def test_a_hung_process_leaves_though_its_post_mortem_fails(
    make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a frame that cannot be walked")

    monkeypatch.setattr("service.process.postmortem.sections", fail)
    left: list[int] = []
    gate, model = Gate(listens=False), FakePredictor()
    application = make(
        *(model, None, left.append), probe_interval=60, timeout=0.5, cancel_grace=0.05, hang_limit=0.1
    )
    application.supervisor.start()
    until(lambda: application.report().healthy)
    model.behave = gate
    try:
        get_stuck(application, gate, "a")
        until(lambda: application.supervisor.fatal is not None)
        assert (left, application.supervisor.fatal) == ([70], 70)
        assert json.loads((tmp_path / "last_exit.json").read_text())["code"] == 70
    finally:
        gate.opened.set()


def test_a_script_is_told_and_not_ended(make: Build) -> None:
    gate = Gate(listens=False)
    model = FakePredictor()
    application = make(model, probe_interval=60, timeout=0.5, cancel_grace=0.05, hang_limit=0.1)
    application.supervisor.start()
    until(lambda: application.report().healthy)
    model.behave = gate
    try:
        get_stuck(application, gate, "a")
        assert application.supervisor.wait(PATIENCE)
        assert application.supervisor.fatal == 70
        assert application.submit(PICTURE, "a").result(0).reason == "stopping"
    finally:
        gate.opened.set()

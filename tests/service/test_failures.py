"""What must survive a failure: accepted requests, the exit code, the truth about the engine."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from service.contract.errors import DeviceLost, NotReady
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from service.inference.computation import Computation
from tests.applications import Build
from tests.fakes import PATIENCE, PICTURE, FakePredictor, until


def test_accepted_requests_wait_for_a_reload_and_are_answered_by_the_new_weights(make: Build) -> None:
    computing, go, loading, loaded = (threading.Event() for _ in range(4))

    class SlowSecondTime(FakePredictor):
        loads = 0

        def load(self, folder: Path) -> None:
            self.loads += 1
            if self.loads == 2:
                loading.set()
                assert loaded.wait(PATIENCE)
            super().load(folder)

        def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
            if pairs[0].hypothesis == "running":
                computing.set()
                assert go.wait(PATIENCE)
            if loading.is_set() and not loaded.is_set() and pairs[0].hypothesis != "running":
                raise NotReady("The model is not loaded.")
            return super().judge(pairs, cancel_point)

    application = make(SlowSecondTime(), timeout=600, probe_interval=600)
    application.supervisor.start()
    until(lambda: application.report().healthy)
    running = application.submit(PICTURE, "running")
    assert computing.wait(PATIENCE)
    waiting = [application.submit(PICTURE, f"{n}") for n in range(3)]
    application.supervisor.reload()
    application.supervisor.reload()  # one is enough
    assert loading.wait(PATIENCE)
    go.set()
    assert running.result(PATIENCE).label == "Yes"
    assert not any(future.done() for future in waiting)
    loaded.set()
    assert [future.result(PATIENCE).label for future in waiting] == ["Yes"] * 3
    assert application.snapshot().reloads == 1


def test_a_model_that_cannot_be_closed_hides_no_exit_code(make: Build, tmp_path: Path) -> None:
    """With a lost CUDA context, releasing its memory raises as well."""

    class Lost(FakePredictor):
        def close(self) -> None:
            raise RuntimeError("CUDA error: device-side assert triggered")

    application = make(Lost())
    application.supervisor.load()
    application.supervisor.restart_needed(DeviceLost("The CUDA context is lost."))
    assert application.supervisor.stop(0.0)
    assert json.loads((tmp_path / "last_exit.json").read_text())["code"] == 71


def test_a_dead_engine_is_unhealthy_at_once_and_named(make: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    application = make(probe_interval=600)
    application.supervisor.load()
    until(lambda: application.report().healthy)

    def die(*_: object) -> None:
        raise SystemExit

    monkeypatch.setattr(Computation, "run", die)
    assert application.submit(PICTURE, "a").result(PATIENCE).reason == "error"
    until(lambda: not application.report().live.ok)
    assert not application.report().healthy
    assert application.supervisor.dead_threads() == ["engine"]


def test_an_unknown_error_of_the_intake_is_an_answer_and_is_counted(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    application = make()
    application.supervisor.load()
    monkeypatch.setattr("service.intake.prepare.Intake.prepare", fail)
    assert application.submit(PICTURE, "a").result(0).reason == "error"
    assert b'ofa_requests_total{outcome="error",source="api"} 1.0' in application.exposition()

"""The memory of pictures on their way to the engine is free as soon as their call is over, and the garbage
collector may run anywhere."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.build import Application
from service.contract.request import VerdictFuture
from service.remote.intake import RemoteIntake
from service.settings import Settings
from tests.api.serving import PICTURE
from tests.fakes import until
from tests.remote.answering import answer, answering
from tests.remote.conftest import Over


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collector")
def test_a_call_that_is_over_holds_no_memory(over: Over) -> None:
    with answering() as engine:
        application = over(engine.url, probe_interval=3600.0)
        for _ in range(3):
            assert application.submit(PICTURE, "a").result(30).reason is None
            assert _used(application) == 0
        engine.judge = [answer({"code": "error"}, 500)]
        assert application.submit(PICTURE, "a").result(30).reason == "error"
        assert _used(application) == 0


@pytest.mark.usefixtures("no_collector")
def test_a_refused_or_cancelled_call_holds_no_memory(over: Over, monkeypatch: pytest.MonkeyPatch) -> None:
    with answering() as engine:
        application = over(engine.url, probe_interval=3600.0)
        application.submit(PICTURE, "a").cancel()
        until(lambda: _used(application) == 0)
        application.supervisor.stop(0.0)
        monkeypatch.setattr(application, "_check_phase", lambda: None)
        monkeypatch.setattr(application._engine, "check", lambda *of: None)  # full only after the reading
        assert application.submit(PICTURE, "a").result(30).reason == "stopping"
        assert _used(application) == 0


def test_the_collector_may_run_while_memory_is_counted(tmp_path: Path) -> None:
    class Collecting(Counter[str]):
        def __getitem__(self, key: str) -> int:
            gc.collect()  # as any allocation may
            return super().__getitem__(key)

    intake = RemoteIntake(Settings(engine="http://127.0.0.1:1", run_dir=tmp_path))
    intake._memory._held = Collecting()

    def prepare() -> None:
        lost = [*intake.prepare(PICTURE, ["a"], None, deadline=0.0, caller="x", wanted=VerdictFuture()).pairs]
        lost.append(lost)  # type: ignore[arg-type]

    counting = threading.Thread(target=lambda: [prepare() for _ in range(3)], daemon=True)
    counting.start()
    counting.join(30)
    assert not counting.is_alive()
    gc.collect()
    assert intake._memory.used() == 0


def _used(application: Application) -> int:
    return application._intake._memory.used()  # type: ignore[attr-defined,no-any-return]

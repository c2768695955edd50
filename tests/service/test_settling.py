"""Once the first verdict is there, files are checked in full; what is damaged is loaded again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from service.app import build
from service.application import Application
from service.errors import InferenceError
from service.progress import Progress, Show
from service.protocols import CancelPoint
from service.settings import Settings
from service.settling import Settler
from service.status import Phase
from tests.fakes import PATIENCE, FakePredictor
from tests.service.test_app import until


class SettlingModel(FakePredictor):
    """Finds its files as ``verdicts`` say, one load after the other, and good from then on."""

    def __init__(self, *verdicts: bool) -> None:
        super().__init__()
        self.verdicts = list(verdicts)
        self.loads = 0
        self.settled = threading.Semaphore(0)

    def load(self, folder: Path) -> None:
        super().load(folder)
        self.loads += 1

    def settle(self, cancel_point: CancelPoint) -> bool:
        cancel_point()
        good = self.verdicts.pop(0) if self.verdicts else True
        self.settled.release()
        return good


@pytest.fixture
def application(tmp_path: Path) -> Iterator[Callable[[FakePredictor], Application]]:
    made: list[Application] = []

    def make(model: FakePredictor) -> Application:
        settings = Settings(model=str(tmp_path), run_dir=tmp_path, load_pause=0.01, stop_grace=0.5)
        made.append(build(settings, model=model, resolve=lambda *args, **more: tmp_path))
        made[-1].start()
        return made[-1]

    yield make
    for one in made:
        until(lambda one=one: one.stop(0.5))  # type: ignore[misc]  # True once its threads have ended


def test_files_are_checked_once_a_load_and_only_after_a_verdict(
    application: Callable[[FakePredictor], Application],
) -> None:
    model = SettlingModel()
    running = application(model)
    assert model.settled.acquire(timeout=PATIENCE)
    assert model.seen, "something was judged before"
    for _ in range(3):
        running.proven(0.0)
    assert not model.settled.acquire(timeout=0.2)
    assert model.loads == 1


def test_damaged_files_are_loaded_again(application: Callable[[FakePredictor], Application]) -> None:
    model = SettlingModel(False)
    running = application(model)
    for _ in range(2):
        assert model.settled.acquire(timeout=PATIENCE)
    assert model.loads == 2
    assert running.snapshot().reloads == 1
    assert running.snapshot().phase is Phase.LOADED


def test_files_that_stay_damaged_are_not_loaded_for_ever(
    application: Callable[[FakePredictor], Application],
) -> None:
    model = SettlingModel(False, False, False)
    running = application(model)
    for _ in range(2):
        assert model.settled.acquire(timeout=PATIENCE)
    assert not model.settled.acquire(timeout=0.3)
    assert (model.loads, running.snapshot().phase) == (2, Phase.LOADED)


def harmed_after(unharmed: Callable[[Show], bool], model: FakePredictor) -> bool:
    """Whether the settler calls its model harmed."""
    ended, harmed = threading.Event(), threading.Event()

    def watched(show: Show) -> bool:
        try:
            return unharmed(show)
        finally:
            ended.set()

    settler = Settler(model, watched, harmed.set)
    settler.arm()
    settler.begin()
    assert ended.wait(PATIENCE)
    assert settler.stop(PATIENCE)
    return harmed.is_set()


def test_a_fetched_file_that_changed_is_enough(tmp_path: Path) -> None:
    assert harmed_after(lambda show: False, FakePredictor())
    assert not harmed_after(lambda show: True, FakePredictor())


def test_what_could_not_be_checked_is_not_called_damaged() -> None:
    class Full(FakePredictor):
        def settle(self, cancel_point: CancelPoint) -> bool:
            raise InferenceError("no memory")

    def unreadable(show: Show) -> bool:
        raise OSError

    assert not harmed_after(unreadable, FakePredictor())
    assert not harmed_after(lambda show: True, Full())


def test_a_stop_ends_the_checking() -> None:
    begun = threading.Event()

    def endless(show: Show) -> bool:
        begun.set()
        while True:
            show(Progress("file", 0, 1))

    harmed = threading.Event()
    settler = Settler(FakePredictor(), endless, harmed.set)
    settler.arm()
    settler.begin()
    assert begun.wait(PATIENCE)
    assert settler.stop(PATIENCE)
    assert not harmed.is_set()
    settler.arm()
    settler.begin()
    assert settler.stop(0.0), "after a stop nothing begins"

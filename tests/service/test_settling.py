"""Once the first verdict is there, files are checked in full; what is damaged is loaded again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from service.errors import InferenceError
from service.progress import Progress, Show
from service.protocols import CancelPoint, Known
from service.settling import Settler
from service.status import Phase
from tests.applications import Build
from tests.fakes import PATIENCE, FakePredictor, nothing_known


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

    def settle(self, cancel_point: CancelPoint, known: Known) -> bool:
        cancel_point()
        good = self.verdicts.pop(0) if self.verdicts else True
        self.settled.release()
        return good


def test_files_are_checked_once_a_load_and_only_after_a_verdict(make: Build) -> None:
    model = SettlingModel()
    running = make(model)
    running.start()
    assert model.settled.acquire(timeout=PATIENCE)
    assert model.seen, "something was judged before"
    for _ in range(3):
        running.proven(0.0)
    assert not model.settled.acquire(timeout=0.2)
    assert model.loads == 1


def test_damaged_files_are_loaded_again(make: Build) -> None:
    model = SettlingModel(False)
    running = make(model)
    running.start()
    for _ in range(2):
        assert model.settled.acquire(timeout=PATIENCE)
    assert model.loads == 2
    assert running.snapshot().reloads == 1
    assert running.snapshot().phase is Phase.LOADED


def test_files_that_stay_damaged_are_not_loaded_for_ever(make: Build) -> None:
    model = SettlingModel(False, False, False)
    running = make(model)
    running.start()
    for _ in range(2):
        assert model.settled.acquire(timeout=PATIENCE)
    assert not model.settled.acquire(timeout=0.3)
    assert (model.loads, running.snapshot().phase) == (2, Phase.LOADED)


def harmed_after(examine: Callable[[Show], Known | None], model: FakePredictor) -> bool:
    """Whether the settler calls its model harmed."""
    ended, harmed = threading.Event(), threading.Event()

    def watched(show: Show) -> Known | None:
        try:
            return examine(show)
        finally:
            ended.set()

    settler = Settler(model, watched, harmed.set)
    settler.arm()
    settler.begin()
    assert ended.wait(PATIENCE)
    assert settler.stop(PATIENCE)
    return harmed.is_set()


def test_a_fetched_file_that_changed_is_enough(tmp_path: Path) -> None:
    assert harmed_after(lambda show: None, FakePredictor())
    assert not harmed_after(lambda show: nothing_known, FakePredictor())


def test_what_could_not_be_checked_is_not_called_damaged() -> None:
    class Full(FakePredictor):
        def settle(self, cancel_point: CancelPoint, known: Known) -> bool:
            raise InferenceError("no memory")

    def unreadable(show: Show) -> Known | None:
        raise OSError

    assert not harmed_after(unreadable, FakePredictor())
    assert not harmed_after(lambda show: nothing_known, Full())


def test_a_stop_ends_the_checking() -> None:
    begun = threading.Event()

    def endless(show: Show) -> Known | None:
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

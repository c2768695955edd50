"""Once the first verdict is there, the converted weights are kept; what is damaged is loaded again, once."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable

import pytest

from service.contract.errors import DamagedFile, InferenceError
from service.contract.protocols import CancelPoint, Converting, Listed
from service.contract.status import Phase
from service.inference.converting import Converter
from tests.applications import Build
from tests.fakes import PATIENCE, FakeConvertingModel, FakePredictor


class CountedModel(FakeConvertingModel):
    """Raises ``failures`` when its converted weights are to be kept, one load after the other."""

    def __init__(self, *failures: Exception) -> None:
        super().__init__()
        self.failures = list(failures)
        self.loads = 0
        self.kept = threading.Semaphore(0)

    def load(self, *arguments: object) -> None:
        super().load(*arguments)  # type: ignore[arg-type]
        self.loads += 1

    def keep_converted(self, cancel_point: CancelPoint, listed: Listed) -> None:
        cancel_point()
        self.kept.release()
        if self.failures:
            raise self.failures.pop(0)


def test_the_fake_is_what_the_settler_stands_on() -> None:
    assert isinstance(FakeConvertingModel(), Converting)
    assert not isinstance(FakePredictor(), Converting)


def test_converted_weights_are_kept_once_a_load_and_only_after_a_verdict(make: Build) -> None:
    model = CountedModel()
    running = make(model)
    running.supervisor.start()
    assert model.kept.acquire(timeout=PATIENCE)
    assert model.seen, "something was judged before"
    for _ in range(3):
        running.supervisor.inference_succeeded(0.0)
    assert not model.kept.acquire(timeout=0.2)
    assert model.loads == 1


def test_damaged_weights_are_loaded_again(make: Build) -> None:
    model = CountedModel(DamagedFile("The checksum is wrong."))
    running = make(model)
    running.supervisor.start()
    for _ in range(2):
        assert model.kept.acquire(timeout=PATIENCE)
    assert model.loads == 2
    assert running.snapshot().reloads == 1
    assert running.snapshot().phase is Phase.LOADED


def test_weights_that_stay_damaged_are_not_loaded_for_ever(make: Build) -> None:
    model = CountedModel(*[DamagedFile("The checksum is wrong.") for _ in range(3)])
    running = make(model)
    running.supervisor.start()
    for _ in range(2):
        assert model.kept.acquire(timeout=PATIENCE)
    assert not model.kept.acquire(timeout=0.3)
    assert (model.loads, running.snapshot().phase) == (2, Phase.LOADED)


class SafetensorError(Exception):
    """What safetensors raises on a full disk is no OSError."""


@pytest.mark.parametrize(
    "failure",
    [OSError(errno.ENOSPC, "No space left on device"), InferenceError("no memory"), SafetensorError("I/O")],
)
def test_what_could_not_be_kept_is_a_line_and_nothing_else(
    failure: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    model, damaged = CountedModel(failure), threading.Event()
    converter = Converter(model, lambda path: None, damaged.set)
    converter.arm()
    converter.begin()
    assert model.kept.acquire(timeout=PATIENCE)
    assert converter.stop(PATIENCE)
    assert not damaged.is_set()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"CONVERTED_WEIGHTS_NOT_KEPT | ERROR={type(failure).__name__}"


def test_a_stop_ends_the_keeping() -> None:
    begun = threading.Event()

    class Endless(FakeConvertingModel):
        def keep_converted(self, cancel_point: Callable[[], None], listed: Listed) -> None:
            begun.set()
            while True:
                cancel_point()

    damaged = threading.Event()
    converter = Converter(Endless(), lambda path: None, damaged.set)
    converter.arm()
    converter.begin()
    assert begun.wait(PATIENCE)
    assert converter.stop(PATIENCE)
    assert not damaged.is_set()
    converter.arm()
    converter.begin()
    assert converter.stop(0.0), "after a stop nothing begins"

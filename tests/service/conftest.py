"""The engine's neighbours as tests want them, and engines that are stopped when a test is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from service.contract.errors import ServiceError
from service.inference.engine import Engine, Limits
from tests.applications import make
from tests.fakes import Clock, FakeEvents, FakePredictor, end
from tests.reading import make_readers
from tests.written_logs import console, open_logs

__all__ = ["clock", "console", "events", "make", "make_readers", "open_logs", "start"]


@pytest.fixture
def events() -> FakeEvents:
    return FakeEvents()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(events: FakeEvents) -> Iterator[Callable[..., Engine]]:
    """Starts engines with real threads, and a real clock unless given another; stops them all at the end."""
    started: list[Engine] = []

    def _start(
        predictor: FakePredictor,
        *,
        on_fatal: Callable[[ServiceError], None] = lambda e: None,
        clock: Callable[[], float] = time.monotonic,
        **limits: float,
    ) -> Engine:
        engine = Engine(predictor, events, Limits(**limits), on_fatal=on_fatal, clock=clock)  # type: ignore[arg-type]
        engine.start()
        started.append(engine)
        return engine

    yield _start
    for engine in started:
        end(engine)

"""Fakes around the engine, and engines that are stopped at the end of each test."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from service.contract.errors import ServiceError
from service.inference.engine import Engine, Limits
from tests.applications import make
from tests.fakes import FakeEvents, FakePredictor, clock, end, events

__all__ = ["clock", "events", "make", "start"]


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

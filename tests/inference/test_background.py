"""Background rows: computed while nothing else waits, in their order, each ended once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from service.contract.causes import Refusal
from service.contract.errors import Busy
from service.contract.request import Request, VerdictFuture
from service.inference.background import LANE_SIZE
from service.inference.engine import Engine
from tests.fakes import Clock, FakeEvents, FakePredictor, Sizes, ask, drain, still


def row(name: str) -> Request:
    return replace(ask(name, source="batch"), deadline=float("inf"))


def rows(engine: Engine, names: str) -> dict[str, VerdictFuture]:
    """Submit the rows together, as the runner does."""
    futures = {name: VerdictFuture() for name in names}
    engine.submit_group([row(name) for name in names], list(futures.values()))
    return futures


def codes(futures: Sequence[VerdictFuture]) -> set[str | None]:
    return {future.result(0).code if future.done() else None for future in futures}


def test_other_requests_go_first(events: FakeEvents, clock: Clock) -> None:
    predictor = Sizes()
    engine = still(predictor, events, clock, max_batch=4)
    rows(engine, "abcdef")
    engine.submit(ask("X"))
    engine.submit(ask("P", source="probe"))
    drain(engine)
    assert predictor.batches == ["P", "X", "abcd", "ef"]


def test_rows_do_not_count_as_load(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock, queue_size=2)
    before = engine.activity()
    rows(engine, "abcdefgh")
    after = engine.activity()
    for fact in ("depth", "expected_seconds", "retry_after", "refusal"):
        assert getattr(after, fact) == getattr(before, fact)
    waiting = [engine.submit(ask(name)) for name in "XY"]
    assert [future.queue_estimate and future.queue_estimate.ahead for future in waiting] == [0, 1]
    assert engine.submit(ask("Z")).result(0).code == Refusal.QUEUE_FULL
    assert codes(list(rows(engine, "i").values())) == {None}, "the queue's limit is not theirs"


def test_the_lane_is_bounded(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock)
    accepted = [rows(engine, "abcdefgh") for _ in range(LANE_SIZE // 8)]
    engine.submit(ask("X"))
    assert codes(list(rows(engine, "i").values())) == {Refusal.QUEUE_FULL}
    with pytest.raises(Busy):
        engine.check("batch")
    engine.check("api", count=40)
    assert engine.activity().refusal is None
    drain(engine)
    assert {code for futures in accepted for code in codes(list(futures.values()))} == {None}
    assert all(future.done() for futures in accepted for future in futures.values())

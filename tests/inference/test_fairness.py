"""Callers in turn: the order of the queue, what one caller may hold, and requests that stay together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from service.contract.causes import Refusal
from service.contract.protocols import CancelPoint
from service.contract.request import Pair, Request, VerdictFuture
from service.inference.engine import Engine
from tests.fakes import YES, Clock, FakeEvents, FakePredictor, Sizes, ask, drain, still


def of(caller: str, text: str = "", *, now: float = 1000.0, limit: float = 15.0) -> Request:
    """A request of ``caller``, in batches shown by its first letter unless it has a text."""
    return replace(ask(text or caller, now=now, limit=limit), caller=caller)


def submit(engine: Engine, callers: str, **more: float) -> list[VerdictFuture]:
    """A request of each caller, in this order."""
    return [engine.submit(of(caller, **more)) for caller in callers]


def group(engine: Engine, caller: str, count: int, **more: float) -> list[VerdictFuture]:
    futures = [VerdictFuture() for _ in range(count)]
    engine.submit_group([of(caller, **more) for _ in futures], futures)
    return futures


def codes(futures: Sequence[VerdictFuture]) -> list[str | None]:
    """The code of each refused request, None for each accepted one."""
    return [future.result(0).code if future.done() else None for future in futures]


class Arriving(Sizes):
    """Requests of these callers arrive while a batch is computed, by the number of the batch."""

    engine: Engine

    def __init__(self, *arrivals: str) -> None:
        super().__init__()
        self._arrivals = list(arrivals)

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        submit(self.engine, self._arrivals.pop(0) if self._arrivals else "")
        return super().judge(pairs, cancel_point)


def batches(events: FakeEvents, clock: Clock, first: str, *arrivals: str, **limits: float) -> list[str]:
    """The callers of each batch, when ``first`` wait and ``arrivals`` come during the batches."""
    predictor = Arriving(*arrivals)
    predictor.engine = still(predictor, events, clock, queue_size=1000, **limits)
    submit(predictor.engine, first)
    drain(predictor.engine)
    return predictor.batches


# ---- whose turn it is ------------------------------------------------------------------------------------


def test_a_batch_takes_callers_in_turn(events: FakeEvents, clock: Clock) -> None:
    assert batches(events, clock, "aaaaabbc", max_batch=4) == ["abca", "abaa"]


@pytest.mark.parametrize("size", [1, 2, 4])
def test_a_caller_waits_for_one_computation_whatever_another_has_waiting(
    size: int, events: FakeEvents, clock: Clock
) -> None:
    seen = batches(events, clock, "a" * 200, "", "b", "", "b", max_batch=size)
    assert ["b" in batch for batch in seen[:6]] == [False, False, True, False, True, False]


def test_callers_that_ask_again_at_once_starve_nobody(events: FakeEvents, clock: Clock) -> None:
    seen = batches(events, clock, "aaaa", "bc", *"bcabcbcabcbc", max_batch=1)
    longest_wait = max(len(part) for part in "".join(seen).split("a")[:4])
    assert "".join(seen).count("a") >= 4
    assert longest_wait <= 2, "one turn of each of the others"


def test_within_a_caller_the_first_comes_first(events: FakeEvents, clock: Clock) -> None:
    predictor = FakePredictor()
    engine = still(predictor, events, clock, max_batch=2)
    for caller, text in zip("aabab", "12345", strict=True):
        engine.submit(of(caller, text))
    drain(engine)
    assert predictor.seen == ["1", "3", "2", "5", "4"]


def test_what_ends_while_it_waits_loses_its_place(events: FakeEvents, clock: Clock) -> None:
    predictor = Sizes()
    engine = still(predictor, events, clock, max_batch=4)
    left, expired, *_ = submit(engine, "a"), submit(engine, "b", limit=1.0), submit(engine, "abc")
    left[0].cancel()
    clock.move(1.0)
    engine.tick()
    assert expired[0].result(0).reason == "timeout"
    assert engine.activity().depth == 3
    drain(engine)
    assert predictor.batches == ["abc"]


def test_the_deadline_of_any_caller_in_the_batch_keeps_it_small(events: FakeEvents, clock: Clock) -> None:
    def judge(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(1.0 * len(pairs))
        return [YES] * len(pairs)

    engine = still(FakePredictor(judge), events, clock, max_batch=8)
    submit(engine, "a")
    engine.step()
    submit(engine, "aaaa", now=clock.now, limit=100)
    submit(engine, "b", now=clock.now, limit=6)
    engine.step()
    assert events.batches == [1, 3]


def test_the_estimate_counts_what_comes_before(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock)
    ahead = [future.queue_estimate.ahead for future in submit(engine, "aaaaabbc") if future.queue_estimate]
    assert ahead == [0, 1, 2, 3, 4, 1, 3, 2]
    drain(engine)
    assert events.batches == [4, 4], "the last batch served a and b"
    ahead = [future.queue_estimate.ahead for future in submit(engine, "aeb") if future.queue_estimate]
    assert ahead == [0, 0, 2], "a new caller goes ahead of those just served"


# ---- what one caller may hold ----------------------------------------------------------------------------


def test_one_caller_leaves_a_quarter_of_the_queue_to_others(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock, queue_size=8)
    assert codes(submit(engine, "a" * 8)) == [None] * 6 + [Refusal.CALLER_LIMIT] * 2
    assert engine.activity().refusal is None, "others are accepted"
    assert codes(submit(engine, "bcd")) == [None, None, Refusal.QUEUE_FULL]
    assert engine.activity().refusal is Refusal.QUEUE_FULL


def test_the_limit_is_for_callers_with_an_identity(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock, queue_size=8)
    futures = [engine.submit(of("", f"{n}")) for n in range(9)]
    assert codes(futures) == [None] * 8 + [Refusal.QUEUE_FULL]


def test_a_backlog_of_ones_own_is_ones_own_limit(events: FakeEvents, clock: Clock) -> None:
    """A request that is too late behind its caller's others is not behind another caller's."""

    def judge(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(1.0 * len(pairs))
        return [YES] * len(pairs)

    engine = still(FakePredictor(judge), events, clock, max_batch=1)
    submit(engine, "a")
    engine.step()
    assert codes(submit(engine, "a" * 12, now=clock.now)) == [None] * 10 + [Refusal.CALLER_LIMIT] * 2
    assert engine.activity().refusal is None
    (refused,) = submit(engine, "a", now=clock.now)
    verdict = refused.result(0)
    assert (verdict.reason, verdict.retry_after, verdict.error and verdict.error.http_status) == (
        "busy",
        10.0,
        429,
    )
    assert codes(submit(engine, "bcdefghijkl", now=clock.now)) == [None] * 10 + [Refusal.TOO_LATE]


# ---- requests that stay together -------------------------------------------------------------------------


def test_a_group_is_one_batch_though_it_is_larger_than_the_maximum(events: FakeEvents, clock: Clock) -> None:
    predictor = Sizes()
    engine = still(predictor, events, clock, max_batch=4)
    submit(engine, "x")
    futures = group(engine, "a", 10)
    submit(engine, "bc")
    drain(engine)
    assert predictor.batches == ["xbc", "aaaaaaaaaa"]
    assert {future.result(0).label for future in futures} == {"Yes"}


def test_a_group_is_accepted_or_refused_together(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock, queue_size=8)
    assert codes(group(engine, "a", 5)) == [None] * 5
    assert codes(group(engine, "a", 2)) == [Refusal.CALLER_LIMIT] * 2
    assert codes(group(engine, "b", 4)) == [Refusal.QUEUE_FULL] * 4
    assert codes(group(engine, "b", 3)) == [None] * 3
    assert engine.activity().counts == {"accepted": 8, "rejected": 6}
    assert [line[0] for line in events.lines] == ["refused"] * 6


def test_the_requests_of_a_group_end_one_by_one(events: FakeEvents, clock: Clock) -> None:
    predictor = Sizes()
    engine = still(predictor, events, clock)
    futures = group(engine, "a", 3)
    assert futures[1].cancel()
    drain(engine)
    assert predictor.batches == ["aa"]
    assert engine.activity().counts == {"accepted": 3, "abandoned": 1, "answered": 2}
    left = group(engine, "a", 2)
    engine.stop(0.0)
    assert codes(left) == ["stopping"] * 2
    assert codes(group(engine, "a", 2)) == ["stopping"] * 2

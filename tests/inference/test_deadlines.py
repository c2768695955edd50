"""Deadlines: answered on time whatever the computation does, and counted from a request's arrival."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pytest

from service.contract.errors import OutOfMemory
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from service.inference.engine import Engine
from tests.fakes import PATIENCE, YES, Clock, FakeEvents, FakePredictor, Gate, ask, still, until


def test_what_expires_in_the_queue_is_answered_and_never_computed(events: FakeEvents, clock: Clock) -> None:
    predictor = FakePredictor()
    engine = still(predictor, events, clock)
    future = engine.submit(ask("late", limit=15))
    clock.move(14.9)
    engine.tick()
    assert not future.done()
    clock.move(0.1)
    engine.tick()
    assert future.result(0).reason == "timeout"
    assert future.result(0).duration == pytest.approx(15.0)
    assert engine.activity().depth == 0
    assert engine.step() is False
    assert predictor.seen == []
    assert events.lines == [("timed_out", "late", "waiting")]


def test_what_expired_before_the_timer_came_is_not_computed_either(events: FakeEvents, clock: Clock) -> None:
    predictor = FakePredictor()
    engine = still(predictor, events, clock)
    future = engine.submit(ask("late", limit=15))
    clock.move(16)
    engine.step()
    assert future.result(0).reason == "timeout"
    assert predictor.seen == []


def test_the_deadline_counts_from_arrival_and_not_from_acceptance(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock)
    future = engine.submit(ask("decoded slowly", now=clock.now - 14, limit=15))
    clock.move(1)
    engine.tick()
    assert future.result(0).reason == "timeout"


def test_a_computation_past_its_deadline_is_answered_stopped_and_the_next_is_served(
    events: FakeEvents, start: Callable[..., Engine], clock: Clock
) -> None:
    gate = Gate()
    predictor = FakePredictor(gate)
    engine = start(predictor, clock=clock)
    slow = engine.submit(ask("slow", limit=0.05))
    assert gate.entered.wait(PATIENCE)
    clock.move(0.1)
    assert slow.result(PATIENCE).reason == "timeout"
    assert gate.left.wait(PATIENCE)  # really stopped: the gate was never opened
    predictor.behave = None
    assert engine.submit(ask("next", now=clock.now)).result(PATIENCE).label == "Yes"
    assert events.wait_for("timed_out") == [("timed_out", "slow", "computing")]
    assert events.wait_for("late") == [("late", "slow", "stopped")]
    assert engine.activity().counts.get("orphaned", 0) == 0


def test_a_computation_that_does_not_listen_is_answered_on_time_and_blocks_visibly(
    events: FakeEvents, start: Callable[..., Engine], clock: Clock
) -> None:
    gate = Gate(listens=False)
    predictor = FakePredictor(gate)
    engine = start(predictor, clock=clock, cancel_grace=0.05, hang_limit=0.5)
    future = engine.submit(ask("stuck", limit=0.05))
    assert gate.entered.wait(PATIENCE)
    clock.move(0.1)
    assert future.result(PATIENCE).reason == "timeout"
    clock.move(0.1)
    events.wait_for("not_cancelling")
    refused = engine.submit(ask("next", now=clock.now)).result(PATIENCE)
    assert refused.reason == "busy"
    assert refused.retry_after is not None
    assert engine.submit(ask("probe", now=clock.now, source="probe")).result(PATIENCE).reason == "busy"
    assert not engine.activity().hung
    clock.move(1.0)
    events.wait_for("hung")
    stuck = engine.activity()
    assert (stuck.not_cancelling, stuck.hung, stuck.counts["orphaned"], stuck.alive) == (True, True, 1, True)

    gate.opened.set()  # it comes back after all: its late answer goes to the log alone, and service goes on
    assert events.wait_for("late") == [("late", "stuck", "answer")]
    predictor.behave = None
    until(lambda: not engine.activity().running)
    assert engine.submit(ask("after", now=clock.now)).result(PATIENCE).label == "Yes"
    assert not engine.activity().not_cancelling
    assert not engine.activity().hung


def test_a_late_error_is_logged_under_its_own_request(
    events: FakeEvents, start: Callable[..., Engine], clock: Clock
) -> None:
    gate = Gate(listens=False)

    def fail(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        gate(pairs, cancel)
        raise OutOfMemory("The GPU's memory is full.")

    engine = start(FakePredictor(fail), clock=clock)
    future = engine.submit(ask("stuck", limit=0.05))
    assert gate.entered.wait(PATIENCE)
    clock.move(0.1)
    assert future.result(PATIENCE).reason == "timeout"
    gate.opened.set()
    assert events.wait_for("late") == [("late", "stuck", "OutOfMemory")]


def test_orphaned_and_hung_are_reached_at_their_limits_and_not_before(
    events: FakeEvents, clock: Clock
) -> None:
    seen: list[tuple[float, bool, bool]] = []

    def stuck(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        for _ in range(8):
            clock.move(5)
            engine.tick()
            activity = engine.activity()
            seen.append((clock.now - 1000, activity.not_cancelling, activity.hung))
        return [YES]

    engine = still(FakePredictor(stuck), events, clock, cancel_grace=10, hang_limit=15)
    engine.submit(ask("one", limit=5))
    engine.step()
    assert next(at for at, orphaned, _ in seen if orphaned) == 15  # 5 s limit + 10 s grace
    assert next(at for at, _, hung in seen if hung) == 30  # and 15 s more
    assert [line[0] for line in events.lines] == ["timed_out", "not_cancelling", "hung", "late"]
    assert not engine.activity().not_cancelling


def test_proof_of_progress_is_the_age_of_the_last_cancel_point(events: FakeEvents, clock: Clock) -> None:
    ages: list[float | None] = []

    def layers(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        for _ in range(2):
            clock.move(1.0)
            ages.append(engine.activity().progress_age)
            cancel()
        ages.append(engine.activity().progress_age)
        return [YES]

    engine = still(FakePredictor(layers), events, clock)
    engine.submit(ask("one"))
    engine.step()
    assert ages == [1.0, 1.0, 0.0]

"""Requests computed together: what is taken, what is waited for, and each one's own deadline."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import pytest

from service.contract.protocols import CancelPoint
from service.contract.request import Pair, Request
from service.inference.engine import Engine, Limits
from service.inference.estimator import LatencyEstimator
from tests.fakes import (
    PATIENCE,
    YES,
    Clock,
    FakeEvents,
    FakePredictor,
    Gate,
    Sizes,
    answers,
    ask,
    drain,
    now,
    still,
    submit,
)

LONG = 3600.0  # seconds: a limit that keeps no batch small, however slow the machine is

# ---- what is taken together ------------------------------------------------------------------------------


def test_what_waits_is_computed_together_in_its_order_up_to_the_maximum(
    events: FakeEvents, clock: Clock
) -> None:
    predictor = Sizes()
    engine = still(predictor, events, clock, max_batch=3)
    futures = submit(engine, "abCde")
    drain(engine)
    assert predictor.batches == ["abC", "de"]
    assert answers(futures) == {"a": "Yes", "b": "Yes", "C": "No", "d": "Yes", "e": "Yes"}
    assert [line[1] for line in events.lines] == list("abCde")


@pytest.mark.parametrize(("device", "most"), [("cpu", 4), ("cuda:0", 32)])
def test_unless_told_the_maximum_goes_by_the_device(
    device: str, most: int, events: FakeEvents, clock: Clock
) -> None:
    predictor = Sizes()
    predictor.device = device
    engine = still(predictor, events, clock, queue_size=100)
    for _ in range(40):
        engine.submit(ask("b"))
    engine.step()
    assert len(predictor.batches[0]) == most


def test_a_probe_is_alone_in_its_batch(events: FakeEvents, clock: Clock) -> None:
    predictor = Sizes()
    engine = still(predictor, events, clock)
    submit(engine, "ab")
    engine.submit(ask("P", source="probe"))
    drain(engine)
    assert predictor.batches == ["P", "ab"]


def test_no_more_is_taken_than_can_be_done_in_half_the_time_left(events: FakeEvents, clock: Clock) -> None:
    def two_seconds(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(2.0 * len(pairs))
        return [YES] * len(pairs)

    engine = still(FakePredictor(two_seconds), events, clock, max_batch=8, max_wait_fraction=math.inf)
    submit(engine, "a", limit=15)
    engine.step()
    futures = {name: engine.submit(ask(name, now=clock.now, limit=15)) for name in "bcdefg"}
    engine.step()
    assert sorted(name for name, future in futures.items() if future.done()) == ["b", "c", "d"]
    engine.submit(ask("h", now=clock.now, limit=1))  # too late for its own good; it is tried all the same
    assert engine.step()


def test_a_batch_shows_in_the_activity_and_in_the_wait_told(events: FakeEvents, clock: Clock) -> None:
    seen: list[tuple[bool, int, int, float]] = []

    def look(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        activity = engine.activity()
        seen.append((activity.running, activity.computing, activity.depth, activity.retry_after))
        clock.move(3.0)
        return [YES] * len(pairs)

    engine = still(FakePredictor(look), events, clock, max_batch=2)
    submit(engine, "abc")
    drain(engine)
    assert seen[0] == (True, 2, 1, 3.0)  # three requests at an assumed second each
    assert seen[1] == (True, 1, 0, 2.0)  # one at the 1.5 s that each of the two took
    assert engine.activity().computing == 0


def test_every_request_counts_once_in_the_average() -> None:
    one_by_one, together = LatencyEstimator(), LatencyEstimator()
    for estimator in (one_by_one, together):
        estimator.record(1, 1.0)
    for _ in range(8):
        one_by_one.record(1, 0.25)
    together.record(8, 2.0)
    assert together.seconds == pytest.approx(one_by_one.seconds)
    assert LatencyEstimator().batch_size_for(0.0, 4) == 4  # nothing is known yet
    assert [together.batch_size_for(seconds, 4) for seconds in (-1.0, 0.0, 1.0, 100.0)] == [1, 1, 2, 4]


# ---- waiting for company ---------------------------------------------------------------------------------


def test_who_asks_alone_never_waits_however_long_the_wait_is(start: Callable[..., Engine]) -> None:
    predictor = Sizes()
    engine = start(predictor, batch_wait=3600.0)
    for name in "abc":
        assert engine.submit(now(name, limit=LONG)).result(PATIENCE).label == "Yes"  # type: ignore[arg-type]
    assert predictor.batches == ["a", "b", "c"]


def test_callers_answered_together_are_waited_for_together(start: Callable[..., Engine]) -> None:
    gate, predictor = Gate(), Sizes()
    first = FakePredictor(gate)
    predictor.judge, judge = (lambda pairs, cancel: first.judge(pairs, cancel)), predictor.judge  # type: ignore[method-assign]
    engine = start(predictor, batch_wait=3600.0)
    held = engine.submit(now("x", limit=LONG))  # type: ignore[arg-type]
    assert gate.entered.wait(PATIENCE)
    predictor.judge = judge  # type: ignore[method-assign]
    pair = [engine.submit(now(name, limit=LONG)) for name in "ab"]  # type: ignore[arg-type]
    gate.opened.set()
    for future in (held, *pair):
        assert future.result(PATIENCE).label == "Yes"
    again = engine.submit(now("c", limit=LONG))  # type: ignore[arg-type]
    probe = engine.submit(now("P", source="probe"))  # type: ignore[arg-type]
    assert probe.result(PATIENCE).label == "No"  # a probe waits for nobody
    # Whether c was alone after the probe or waited for d is a matter of moments; nobody may be left behind.
    assert engine.submit(now("d", limit=LONG)).result(PATIENCE).label == "Yes"  # type: ignore[arg-type]
    assert again.result(PATIENCE).label == "Yes"
    assert predictor.batches[0] == "ab"


def test_a_wait_for_company_ends_after_its_time(start: Callable[..., Engine]) -> None:
    gate = Gate()
    predictor = FakePredictor(gate)
    engine = start(predictor, batch_wait=0.05)
    futures = [engine.submit(now(name, limit=LONG)) for name in "xab"]  # type: ignore[arg-type]
    assert gate.entered.wait(PATIENCE)
    gate.opened.set()
    assert [future.result(PATIENCE).label for future in futures] == ["Yes"] * 3
    assert engine.submit(now("c", limit=LONG)).result(PATIENCE).label == "Yes"  # type: ignore[arg-type]


def test_a_stop_does_not_wait_for_company(start: Callable[..., Engine]) -> None:
    gate = Gate()
    engine = start(FakePredictor(gate), batch_wait=3600.0)
    futures = [engine.submit(now(name, limit=LONG)) for name in "xab"]  # type: ignore[arg-type]
    assert gate.entered.wait(PATIENCE)
    gate.opened.set()
    assert [future.result(PATIENCE).label for future in futures] == ["Yes"] * 3
    last = engine.submit(now("c", limit=LONG))  # type: ignore[arg-type]
    assert engine.stop(PATIENCE)
    assert last.result(0).label == "Yes"


# ---- deadlines and callers that leave --------------------------------------------------------------------


def test_each_request_of_a_batch_is_answered_at_its_own_deadline_and_the_rest_goes_on(
    events: FakeEvents, clock: Clock
) -> None:
    seen: list[dict[str, bool]] = []

    def layers(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        for _ in range(3):
            clock.move(5)
            engine.tick()
            cancel()  # never raises while somebody waits
            seen.append({name: future.done() for name, future in futures.items()})
        return [YES] * len(pairs)

    engine = still(FakePredictor(layers), events, clock)
    limits = {"a": 5, "b": 10, "c": 60}
    futures = {name: engine.submit(ask(name, limit=limit)) for name, limit in limits.items()}
    engine.step()
    assert seen == [
        {"a": True, "b": False, "c": False},
        {"a": True, "b": True, "c": False},
        {"a": True, "b": True, "c": False},
    ]
    assert answers(futures) == {"a": "timeout", "b": "timeout", "c": "Yes"}
    assert [line for line in events.lines if line[0] == "late"] == [
        ("late", "a", "answer"),
        ("late", "b", "answer"),
    ]
    assert engine.activity().counts == {"accepted": 3, "timeout": 2, "answered": 1}


def test_a_batch_is_stopped_only_when_nobody_waits_for_any_of_it(events: FakeEvents, clock: Clock) -> None:
    def layers(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(5)
        engine.tick()
        assert expiring.result(0).reason == "timeout"
        cancel()
        assert leaving.cancel()
        cancel()
        clock.move(5)
        engine.tick()
        assert patient.result(0).reason == "timeout"
        cancel()
        raise AssertionError("not stopped")

    engine = still(FakePredictor(layers), events, clock)
    expiring, leaving, patient = (engine.submit(ask(n, limit=s)) for n, s in (("a", 5), ("b", 60), ("c", 10)))
    engine.step()
    assert engine.activity().counts == {"accepted": 3, "timeout": 2, "abandoned": 1}
    assert [line for line in events.lines if line[0] == "late"] == [("late", n, "stopped") for n in "abc"]


def test_a_caller_who_leaves_a_batch_takes_nobody_along(events: FakeEvents, clock: Clock) -> None:
    def leave(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        futures["b"].cancel()
        cancel()
        return [YES] * len(pairs)

    engine = still(FakePredictor(leave), events, clock)
    futures = submit(engine, "abc")
    engine.step()
    assert [futures[name].result(0).label for name in "ac"] == ["Yes", "Yes"]
    assert engine.activity().counts == {"accepted": 3, "abandoned": 1, "answered": 2}


def test_every_request_of_a_stuck_batch_is_named(events: FakeEvents, clock: Clock) -> None:
    told: list[list[str]] = []

    def stuck(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        for _ in range(10):
            clock.move(5)
            engine.tick()
        return [YES] * len(pairs)

    def hung(requests: Sequence[Request], seconds: float) -> None:
        told.append([request.id for request in requests])

    engine = Engine(
        FakePredictor(stuck), events, Limits(cancel_grace=5, hang_limit=5), clock=clock, on_hung=hung
    )
    submit(engine, "ab")
    engine.step()
    assert told == [["a", "b"]]

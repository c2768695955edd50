"""The engine's promises, with a real second predictor and, where time matters, a clock that is moved."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

import pytest

from service.contract.errors import DeviceLost, OutOfMemory, ServiceError, ShuttingDown
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from service.inference.engine import Engine, Limits
from tests.fakes import (
    NO,
    PATIENCE,
    YES,
    Clock,
    FakeEvents,
    FakePredictor,
    Gate,
    ask,
    end,
    now,
    still,
    until,
)

# ---- answers ---------------------------------------------------------------------------------------------


def test_a_request_is_answered_with_the_models_verdict(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(lambda pairs, cancel: [NO]), events, clock)
    future = engine.submit(ask("one"))
    assert engine.step() is True
    verdict = future.result(0)
    assert verdict.as_dict() == {"label": "No", "score": 0.7, "scores": NO, "reason": None}
    assert (verdict.device, verdict.dtype, verdict.request_id) == ("cpu", "fp32", "one")
    assert events.lines == [("ended", "one", "No")]
    assert engine.step() is False


def test_requests_are_answered_in_the_order_they_came(events: FakeEvents, clock: Clock) -> None:
    predictor = FakePredictor()
    engine = still(predictor, events, clock)
    for name in "abc":
        engine.submit(ask(name))
    while engine.step():
        pass
    assert predictor.seen == ["a", "b", "c"]


def test_a_full_queue_says_busy_at_once_and_how_long_to_wait(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock, queue_size=2)
    kept = [engine.submit(ask("a")), engine.submit(ask("b"))]
    refused = engine.submit(ask("c")).result(0)
    assert (refused.label, refused.score, refused.scores, refused.reason) == ("Maybe", 0.5, None, "busy")
    assert refused.retry_after == 2.0
    assert engine.activity().full
    assert not any(future.done() for future in kept)
    assert engine.activity().counts == {"accepted": 2, "rejected": 1}


def test_the_wait_told_follows_the_measured_time_of_a_request(events: FakeEvents, clock: Clock) -> None:
    def slow(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(3.3)
        return [YES]

    engine = still(FakePredictor(slow), events, clock, queue_size=2)
    engine.submit(ask("first"))
    engine.step()
    engine.submit(ask("a", now=clock.now))
    engine.submit(ask("b", now=clock.now))
    assert engine.submit(ask("c", now=clock.now)).result(0).retry_after == 7.0  # 2 × 3.3 s, rounded up


def test_a_known_error_becomes_an_answer_that_holds_it(events: FakeEvents, clock: Clock) -> None:
    def fail(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        raise OutOfMemory("The GPU's memory is full.")

    engine = still(FakePredictor(fail), events, clock)
    future = engine.submit(ask("one"))
    engine.step()
    assert future.result(0).reason == "error"
    assert isinstance(future.result(0).error, OutOfMemory)


def test_a_foreign_error_is_told_by_its_class_alone(events: FakeEvents, clock: Clock) -> None:
    def fail(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        raise KeyError(pairs[0].hypothesis)

    engine = still(FakePredictor(fail), events, clock)
    future = engine.submit(ask("one", text="a private sentence"))
    engine.step()
    error = future.result(0).error
    assert error is not None
    assert error.message == "Unexpected KeyError in the model."
    assert isinstance(error.__cause__, KeyError)
    assert ("broken", "", "KeyError") in events.lines


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_scores_that_are_not_finite_are_no_verdict(bad: float, events: FakeEvents, clock: Clock) -> None:
    proofs: list[float] = []
    predictor = FakePredictor(lambda pairs, cancel: [{"Yes": bad, "No": 0.5, "Maybe": 0.5}])
    engine = Engine(predictor, events, Limits(), clock=clock, on_success=proofs.append)
    future = engine.submit(ask("one"))
    engine.step()
    assert future.result(0).reason == "error"
    assert proofs == []


def test_too_few_answers_are_an_error_and_not_somebody_elses_answer(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(lambda pairs, cancel: []), events, clock)
    future = engine.submit(ask("one"))
    engine.step()
    assert future.result(0).reason == "error"


def test_an_answer_to_a_user_is_proof_and_one_to_a_probe_is_left_to_the_prober(
    events: FakeEvents, clock: Clock
) -> None:
    proofs: list[float] = []
    engine = Engine(FakePredictor(), events, Limits(), clock=clock, on_success=proofs.append)
    engine.submit(ask("probe", source="probe"))
    engine.step()
    assert proofs == []
    engine.submit(ask("user"))
    engine.step()
    assert proofs == [clock.now]


def test_a_lost_device_is_reported_as_fatal(events: FakeEvents, clock: Clock) -> None:
    def fail(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        raise DeviceLost("The CUDA context is lost.")

    fatal: list[ServiceError] = []
    engine = Engine(FakePredictor(fail), events, Limits(), clock=clock, on_fatal=fatal.append)
    future = engine.submit(ask("one"))
    engine.step()
    assert future.result(0).reason == "error"
    assert [type(error) for error in fatal] == [DeviceLost]


# ---- callers that leave ----------------------------------------------------------------------------------


def test_a_request_nobody_waits_for_is_not_computed(events: FakeEvents, clock: Clock) -> None:
    predictor = FakePredictor()
    engine = still(predictor, events, clock)
    assert engine.submit(ask("left")).cancel()
    assert engine.step() is False
    assert predictor.seen == []
    assert engine.activity().counts == {"accepted": 1, "abandoned": 1}


def test_a_computation_nobody_waits_for_is_stopped(events: FakeEvents, start: Callable[..., Engine]) -> None:
    gate = Gate()
    engine = start(FakePredictor(gate))
    future = engine.submit(now("left"))
    assert gate.entered.wait(PATIENCE)
    assert future.cancel()
    assert gate.left.wait(PATIENCE)
    assert events.wait_for("late") == [("late", "left", "stopped")]


# ---- the probe -------------------------------------------------------------------------------------------


def test_a_probe_goes_first_and_takes_no_users_place(events: FakeEvents, clock: Clock) -> None:
    predictor = FakePredictor()
    engine = still(predictor, events, clock, queue_size=2)
    engine.submit(ask("a"))
    probe = engine.submit(ask("probe", source="probe"))
    assert not engine.submit(ask("b")).done()  # the probe left room for two users
    assert engine.submit(ask("c")).result(0).code == "queue_full"
    engine.step()
    assert predictor.seen == ["probe"]
    assert probe.result(0).label == "Yes"


def test_a_probe_gets_in_when_the_queue_is_full_and_only_one_waits(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock, queue_size=1)
    engine.submit(ask("a"))
    assert not engine.submit(ask("probe", source="probe")).done()
    assert engine.submit(ask("probe2", source="probe")).result(0).reason == "busy"


# ---- stopping --------------------------------------------------------------------------------------------


def refuses(engine: Engine) -> bool:
    """Whether it takes no more work, asked in a way that leaves none behind."""
    try:
        engine.check("api")
    except ShuttingDown:
        return True
    return False


def test_a_stop_refuses_new_work_and_lets_accepted_work_finish(
    events: FakeEvents, start: Callable[..., Engine]
) -> None:
    gate = Gate()
    engine = start(FakePredictor(gate))
    running = engine.submit(now("running"))
    waiting = engine.submit(now("waiting"))
    assert gate.entered.wait(PATIENCE)
    stopper = threading.Thread(target=engine.stop, args=(PATIENCE,))
    stopper.start()
    until(lambda: refuses(engine))
    assert engine.submit(now("refused")).result(0).reason == "stopping"
    gate.opened.set()
    assert running.result(PATIENCE).label == "Yes"
    assert waiting.result(PATIENCE).label == "Yes"
    stopper.join(PATIENCE)
    assert not stopper.is_alive()


def test_a_stop_cancels_what_outlasts_its_grace(events: FakeEvents, start: Callable[..., Engine]) -> None:
    gate = Gate()
    engine = start(FakePredictor(gate))
    running = engine.submit(now("running"))
    waiting = engine.submit(now("waiting"))
    assert gate.entered.wait(PATIENCE)
    assert engine.stop(0.01) is True
    assert running.result(0).reason == "stopping"
    assert waiting.result(0).reason == "stopping"
    assert gate.left.is_set()


def test_a_stop_is_bounded_even_if_the_computation_never_ends(events: FakeEvents) -> None:
    gate = Gate(listens=False)
    engine = Engine(FakePredictor(gate), events, Limits(cancel_grace=0.05))
    engine.start()
    running = engine.submit(now("running"))  # type: ignore[arg-type]
    assert gate.entered.wait(PATIENCE)
    assert engine.stop(0.0) is False
    assert running.result(0).reason == "stopping"
    gate.opened.set()
    end(engine)


# ---- exactly once ----------------------------------------------------------------------------------------


class Suicidal(BaseException):
    pass


def test_nobody_waits_for_a_dead_engine(events: FakeEvents) -> None:
    gate = Gate()

    def die(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        gate(pairs, cancel)
        raise Suicidal

    engine = Engine(FakePredictor(die), events, Limits())
    engine.start()
    running = engine.submit(now("running"))  # type: ignore[arg-type]
    waiting = engine.submit(now("waiting"))  # type: ignore[arg-type]
    gate.opened.set()
    assert running.result(PATIENCE).reason == "error"
    assert waiting.result(PATIENCE).reason == "error"
    events.wait_for("broken")
    assert engine.activity().alive is False
    engine.stop(0.0)


def test_under_concurrency_every_accepted_request_ends_exactly_once(
    events: FakeEvents, start: Callable[..., Engine]
) -> None:
    turn = iter(range(10**9))

    def mixed(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        kind = next(turn) % 7
        if kind == 3:
            raise OutOfMemory("The GPU's memory is full.")
        for _ in range(kind):
            time.sleep(0.0005)
            cancel()
        return [YES]

    engine = start(FakePredictor(mixed), queue_size=16, max_wait_fraction=math.inf)  # however hopeless
    answered: Counter[str] = Counter()
    reasons: Counter[str | None] = Counter()
    lock = threading.Lock()

    def caller(number: int) -> None:
        for turn in range(40):
            name = f"{number}-{turn}"
            future = engine.submit(now(name, limit=0.004 if turn % 3 else 5))  # type: ignore[arg-type]
            left = turn % 5 == 4 and future.cancel()
            reason = "left" if left else future.result(PATIENCE).reason
            with lock:
                answered[name] += 1
                reasons[reason] += 1

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(8)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(PATIENCE)
    assert engine.stop(PATIENCE)

    assert len(answered) == 8 * 40
    assert set(answered.values()) == {1}
    ends = Counter(line[1] for line in events.lines if line[0] in ("ended", "timed_out"))
    assert set(ends.values()) == {1}
    counts = engine.activity().counts
    assert len(ends) == counts["accepted"]
    assert counts["accepted"] + counts.get("rejected", 0) == 8 * 40
    assert counts["accepted"] == sum(
        counts.get(way, 0) for way in ("answered", "timeout", "error", "abandoned", "stopping")
    )
    # Who leaves at the moment of the answer is counted by it.
    assert reasons[None] <= counts["answered"] <= reasons[None] + reasons["left"]
    assert {"timeout", "error", "left", None} <= set(reasons)


def test_a_request_that_would_be_answered_too_late_is_refused_at_once(
    events: FakeEvents, clock: Clock
) -> None:
    """Else under overload each would wait for its turn and be stopped within sight of its answer."""

    def two_seconds(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(2.0 * len(pairs))
        return [YES] * len(pairs)

    engine = still(FakePredictor(two_seconds), events, clock)
    engine.submit(ask("measured", now=clock.now, limit=15))
    engine.step()
    taken = [engine.submit(ask(f"{n}", now=clock.now, limit=15)) for n in range(5)]
    late = engine.submit(ask("late", now=clock.now, limit=15)).result(0)
    assert (late.reason, late.retry_after) == ("busy", 10.0)
    assert not engine.submit(ask("patient", now=clock.now, limit=30)).done()
    assert not engine.submit(ask("probe", now=clock.now, limit=1, source="probe")).done()
    while engine.step():
        pass
    assert [future.result(0).reason for future in taken] == [None] * 5


def test_however_long_one_takes_who_is_alone_is_tried(events: FakeEvents, clock: Clock) -> None:
    def slow(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(14.0)
        return [YES] * len(pairs)

    engine = still(FakePredictor(slow), events, clock)
    for name in ("first", "second"):
        future = engine.submit(ask(name, now=clock.now, limit=15))
        engine.step()
        assert future.result(0).reason is None


def test_a_request_knows_how_many_were_ahead_of_it_and_how_long_it_took(
    events: FakeEvents, clock: Clock
) -> None:
    def take_three_seconds(pairs: Sequence[Pair], cancel: CancelPoint) -> list[Mapping[str, float]]:
        if pairs[0].hypothesis == "one":  # two more come meanwhile
            for name in ("two", "three"):
                engine.submit(ask(name, now=clock.now))
        clock.move(3.0)
        return [YES for _ in pairs]

    engine = still(FakePredictor(take_three_seconds), events, clock)
    engine.submit(ask("one", now=clock.now))
    engine.step()
    engine.step()
    assert {name: (c.ahead, c.waited, c.computed, c.batch) for name, c in events.timings.items()} == {
        "one": (0, 0.0, 3.0, 1),
        "two": (1, 3.0, 3.0, 2),
        "three": (2, 3.0, 3.0, 2),
    }

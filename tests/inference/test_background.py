"""Background rows: computed while nothing else waits, in their order, each ended once."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from service.contract.causes import ExitCode, Refusal
from service.contract.errors import Busy, OutOfMemory
from service.contract.protocols import CancelPoint
from service.contract.request import MAX_TEXTS, Pair
from service.inference.background import LANE_SIZE
from service.inference.engine import Engine, Limits
from tests.applications import Build
from tests.fakes import (
    PATIENCE,
    PICTURE,
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
    until,
)
from tests.inference.background import codes, rows

# ---- the lane --------------------------------------------------------------------------------------------


def test_other_requests_go_first(events: FakeEvents, clock: Clock) -> None:
    predictor = Sizes()
    engine = still(predictor, events, clock, max_batch=4)
    futures = rows(engine, "abcdef")
    engine.submit(ask("X"))
    engine.submit(ask("P", source="probe"))
    drain(engine)
    assert predictor.batches == ["P", "X", "abcd", "ef"]
    assert answers(futures) == dict.fromkeys("abcdef", "Yes")
    assert engine.activity().counts == {"accepted": 8, "answered": 8}


def test_rows_do_not_count_as_load(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock, queue_size=2)
    before = engine.activity()
    rows(engine, "abcdefgh")
    after = engine.activity()
    assert after.background == 8
    for fact in ("depth", "expected_seconds", "retry_after", "refusal"):
        assert getattr(after, fact) == getattr(before, fact)
    waiting = [engine.submit(ask(name)) for name in "XY"]
    assert [future.queue_estimate and future.queue_estimate.ahead for future in waiting] == [0, 1]
    assert engine.submit(ask("Z")).result(0).code == Refusal.QUEUE_FULL
    assert codes(rows(engine, "i")) == {None}, "the queue's limit is not theirs"


def test_the_lane_is_bounded(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock)
    accepted = [rows(engine, "abcdefgh") for _ in range(LANE_SIZE // 8)]
    refused = rows(engine, "i")["i"].result(0)
    assert (refused.reason, refused.code) == ("busy", Refusal.QUEUE_FULL)
    with pytest.raises(Busy):
        engine.check("batch")
    engine.check("api", count=40)
    assert engine.activity().refusal is None, "readiness is for other requests"
    drain(engine)
    assert set().union(*map(codes, accepted)) == {None}
    assert engine.activity().counts["answered"] == LANE_SIZE


def test_a_row_has_no_deadline_while_it_waits(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock, timeout=15)
    futures = rows(engine, "a")
    clock.move(100_000)
    engine.tick()
    assert not futures["a"].done()
    engine.step()
    assert answers(futures) == {"a": "Yes"}


def test_a_pause_keeps_the_rows(events: FakeEvents, clock: Clock) -> None:
    predictor = Sizes()
    engine = still(predictor, events, clock)
    futures = rows(engine, "ab")
    engine.pause()
    assert engine.step() is False
    engine.resume()
    assert engine.step() is True
    assert answers(futures) == {"a": "Yes", "b": "Yes"}


def test_the_cancelled_row_alone_leaves_the_lane(events: FakeEvents, clock: Clock) -> None:
    predictor = Sizes()
    engine = still(predictor, events, clock)
    futures = rows(engine, "abc")
    assert futures["b"].cancel()
    assert engine.activity().background == 2
    drain(engine)
    assert predictor.batches == ["ac"]
    assert engine.activity().counts == {"accepted": 3, "abandoned": 1, "answered": 2}


def test_a_computation_of_cancelled_rows_stops(events: FakeEvents, start: Callable[..., Engine]) -> None:
    gate = Gate()
    engine = start(FakePredictor(gate))
    futures = rows(engine, "ab")
    assert gate.entered.wait(PATIENCE)
    for future in futures.values():
        assert future.cancel()
    assert gate.left.wait(PATIENCE)
    assert events.wait_for("late", 2) == [("late", "a", "stopped"), ("late", "b", "stopped")]


def test_one_bad_row_fails_alone(events: FakeEvents, clock: Clock) -> None:
    predictor = Sizes(b=OutOfMemory("The memory is full."))
    engine = still(predictor, events, clock)
    futures = rows(engine, "abcd")
    drain(engine)
    assert answers(futures) == {"a": "Yes", "b": "error", "c": "Yes", "d": "Yes"}


def test_an_answer_to_a_row_is_evidence(events: FakeEvents, clock: Clock) -> None:
    proofs: list[float] = []
    engine = Engine(FakePredictor(), events, Limits(), clock=clock, on_success=proofs.append)
    rows(engine, "ab")
    drain(engine)
    assert proofs == [clock.now] * 2


# ---- stopping --------------------------------------------------------------------------------------------


def test_a_stop_does_not_wait_for_rows(events: FakeEvents, start: Callable[..., Engine]) -> None:
    gate = Gate()
    engine = start(FakePredictor(gate), max_batch=2)
    futures = rows(engine, "abcd", at=time.monotonic())
    assert gate.entered.wait(PATIENCE)
    assert engine.stop(PATIENCE) is True
    assert answers(futures) == dict.fromkeys("abcd", "stopping")
    assert codes(rows(engine, "e", at=time.monotonic())) == {"stopping"}
    assert gate.left.is_set()


def test_a_stop_answers_other_requests_and_no_row(events: FakeEvents, start: Callable[..., Engine]) -> None:
    gate = Gate()
    engine = start(FakePredictor(gate))
    running = engine.submit(now("X"))  # type: ignore[arg-type]
    futures = rows(engine, "ab", at=time.monotonic())
    assert gate.entered.wait(PATIENCE)
    stopper = threading.Thread(target=engine.stop, args=(PATIENCE,))
    stopper.start()
    until(lambda: all(future.done() for future in futures.values()))
    assert answers(futures) == {"a": "stopping", "b": "stopping"}
    assert not running.done()
    gate.opened.set()
    assert running.result(PATIENCE).label == "Yes"
    stopper.join(PATIENCE)


# ---- with threads -----------------------------------------------------------------------------------------


def test_rows_do_not_start_between_two_calls_of_one_caller(
    start: Callable[..., Engine], clock: Clock
) -> None:
    """They wait for batch_wait after a request, and not after each other."""
    predictor = Sizes()
    engine = start(predictor, clock=clock, batch_wait=0.1, max_batch=2)
    assert engine.submit(ask("X")).result(PATIENCE).label == "No"
    futures = rows(engine, "abcd")
    assert engine.submit(ask("Y")).result(PATIENCE).label == "No"
    assert not any(future.done() for future in futures.values())
    clock.move(0.2)
    for future in futures.values():
        assert future.result(PATIENCE).label == "Yes"
    assert predictor.batches == ["X", "Y", "ab", "cd"]


# ---- an application --------------------------------------------------------------------------------------


def test_a_loading_model_refuses_rows_and_a_reload_keeps_those_that_wait(make: Build) -> None:
    gate = Gate()
    application = make(FakePredictor(gate), timeout=600, probe_timeout=600)
    futures = application.submit_many(PICTURE, ["a", "b"], source="batch")
    assert [future.result(0).code for future in futures] == ["loading", "loading"]
    application.supervisor.load()
    assert gate.entered.wait(PATIENCE)  # the probe
    kept = application.submit_many(PICTURE, ["a", "b"], source="batch")
    application.supervisor.reload()
    until(lambda: application.snapshot().reloads == 1)
    assert not any(future.done() for future in kept)
    gate.opened.set()
    assert [future.result(PATIENCE).label for future in kept] == ["Yes", "Yes"]


def test_rows_are_as_many_as_a_call_allows_whatever_the_queue(make: Build) -> None:
    application = make(FakePredictor(), queue_size=1)
    application.supervisor.load()
    futures = application.submit_many(PICTURE, ["a"] * MAX_TEXTS, source="batch")
    assert {future.result(PATIENCE).label for future in futures} == {"Yes"}


def test_a_hung_computation_of_rows_ends_the_process(make: Build, tmp_path: Path) -> None:
    gate = Gate(listens=False)
    exits: list[int] = []

    def judge(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        return gate(pairs, cancel) if pairs[0].hypothesis == "hangs" else [YES] * len(pairs)

    limits = {"timeout": 0.05, "cancel_grace": 0.05, "hang_limit": 0.05}
    application = make(FakePredictor(judge), exit_now=exits.append, **limits)
    application.supervisor.load()
    (future,) = application.submit_many(PICTURE, ["hangs"], source="batch")
    assert future.result(PATIENCE).reason == "timeout"
    until(lambda: exits != [])
    assert exits == [ExitCode.HUNG]
    assert json.loads((tmp_path / "last_exit.json").read_text())["code"] == ExitCode.HUNG
    gate.opened.set()

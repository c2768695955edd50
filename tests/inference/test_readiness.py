"""Readiness: would the next request be refused? After a refusal, until half the queue is done."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

import doctor
from service.contract.causes import Refusal
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from service.inference.engine import Engine
from service.telemetry.logs import Logs
from tests.applications import Build
from tests.fakes import PICTURE, YES, Clock, FakeEvents, FakePredictor, Gate, ask, still, until

PACE = 0.45  # seconds a request takes the real model on a CPU


def at_pace(clock: Clock, seconds: float = PACE) -> FakePredictor:
    def judge(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(seconds * len(pairs))
        return [YES] * len(pairs)

    return FakePredictor(judge)


def submit(engine: Engine, clock: Clock, count: int) -> list[str | None]:
    """The codes of those that were refused, by count requests at once; None for each accepted one."""
    futures = [engine.submit(ask(f"{n}", now=clock.now)) for n in range(count)]
    return [future.result(0).code if future.done() else None for future in futures]


def seen_while_it_drains(engine: Engine) -> list[tuple[int, Refusal | None]]:
    """How many wait, and what the next request would be refused with, after each batch."""
    seen = []
    while engine.step():
        activity = engine.activity()
        seen.append((activity.depth, activity.refusal))
    return seen


def test_what_would_come_too_late_at_the_models_pace_ends_readiness_until_half_of_it_is_done(
    events: FakeEvents, clock: Clock
) -> None:
    engine = still(at_pace(clock), events, clock)
    submit(engine, clock, 1)
    engine.step()
    assert engine.activity().refusal is None
    codes = submit(engine, clock, 40)
    assert codes == [None] * 22 + [Refusal.TOO_LATE] * 18, "22 × 0.45 s is two thirds of 15 s"
    assert engine.activity().refusal is Refusal.TOO_LATE
    assert seen_while_it_drains(engine) == [
        *[(18, Refusal.TOO_LATE), (14, Refusal.TOO_LATE)],
        *[(10, None), (6, None), (2, None), (0, None)],
    ]


def test_a_full_queue_ends_readiness_until_it_is_half_empty(events: FakeEvents, clock: Clock) -> None:
    engine = still(at_pace(clock, 0.001), events, clock, queue_size=8, max_batch=1)
    assert submit(engine, clock, 8) == [None] * 8
    assert engine.activity().refusal is Refusal.QUEUE_FULL, "the next would be refused"
    assert submit(engine, clock, 1) == [Refusal.QUEUE_FULL]
    seen = seen_while_it_drains(engine)
    assert seen[:4] == [(7, Refusal.QUEUE_FULL), (6, Refusal.QUEUE_FULL), (5, Refusal.QUEUE_FULL), (4, None)]


def test_a_full_queue_that_refused_nobody_is_ready_with_its_first_free_place(
    events: FakeEvents, clock: Clock
) -> None:
    engine = still(at_pace(clock, 0.001), events, clock, queue_size=8, max_batch=1)
    submit(engine, clock, 8)
    assert seen_while_it_drains(engine)[0] == (7, None)


def test_what_was_half_empty_between_two_looks_is_not_held_against_it(
    events: FakeEvents, clock: Clock
) -> None:
    engine = still(at_pace(clock, 0.001), events, clock, queue_size=8)
    submit(engine, clock, 9)
    while engine.step():
        pass
    submit(engine, clock, 6)
    assert engine.activity().refusal is None


def test_a_pace_that_recovers_brings_readiness_back_before_half_of_the_queue_is_done(
    events: FakeEvents, clock: Clock
) -> None:
    """One slow answer made the next ones look late."""
    pace = [5.0]

    def judge(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(pace[0] * len(pairs))
        return [YES] * len(pairs)

    engine = still(FakePredictor(judge), events, clock, max_batch=1)
    submit(engine, clock, 1)
    engine.step()
    assert submit(engine, clock, 3) == [None, None, Refusal.TOO_LATE]
    pace[0] = 0.0
    engine.step()
    assert engine.activity().refusal is Refusal.TOO_LATE
    engine.step()
    assert engine.activity().refusal is None


def test_a_stuck_computation_ends_readiness_until_it_is_gone(
    start: Callable[..., Engine], clock: Clock
) -> None:
    gate = Gate(listens=False)
    engine = start(FakePredictor(gate), clock=clock, cancel_grace=1.0)
    engine.submit(ask("stuck", now=clock.now))
    try:
        until(gate.entered.is_set)
        for seconds in (15.0, 1.0):
            clock.move(seconds)
            engine.tick()
        assert submit(engine, clock, 1) == [Refusal.STUCK]
        assert engine.activity().refusal is Refusal.STUCK
    finally:
        gate.opened.set()
    until(lambda: engine.activity().refusal is None)


def test_a_refused_probe_ends_nobodys_readiness(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(), events, clock)
    for name in "ab":
        engine.submit(ask(name, now=clock.now, source="probe"))
    assert engine.activity().refusal is None


def series(text: str, name: str) -> float:
    (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(value)


def test_overload_at_the_models_pace_and_default_settings_is_seen_everywhere(
    make: Build, tmp_path: Path
) -> None:
    logs = Logs(tmp_path, max_bytes=1 << 24, backups=1, console=io.StringIO())
    logs.open()

    def judge(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        time.sleep(PACE * len(pairs))
        return [YES] * len(pairs)

    try:
        application = make(FakePredictor(judge))
        application.supervisor.load()
        until(lambda: application.report().ready.ok)
        futures = [application.submit(PICTURE, "a circle") for _ in range(60)]
        refused = [verdict for future in futures if future.done() and (verdict := future.result()).code]
        assert {verdict.code for verdict in refused} == {Refusal.TOO_LATE}
        assert {verdict.reason for verdict in refused} == {"busy"}
        ready = application.report().ready
        assert (ready.ok, ready.reason) == (False, Refusal.TOO_LATE)
        assert ready.retry_after is not None
        told = application.exposition().decode()
        assert series(told, "ofa_ready") == 0
        assert series(told, 'ofa_rejections_total{reason="too_late"}') == len(refused)
        until(lambda: application.report().ready.ok)
        assert application.snapshot().activity.depth, "readiness does not wait for the last one"
    finally:
        logs.close()
    assert [finding.code for finding in doctor.examine(tmp_path)] == ["overload"]
    lines = (tmp_path / "web_app.log").read_text().splitlines()
    assert sum(" | REASON=too_late | " in line for line in lines) == len(refused)


@pytest.mark.parametrize("reason", [Refusal.LOADING, Refusal.STOPPING])
def test_what_is_no_matter_of_load_is_a_code_too(make: Build, reason: Refusal) -> None:
    application = make()
    if reason is Refusal.STOPPING:
        application.supervisor.stop(0.0)
    ready = application.report().ready
    assert (ready.ok, ready.reason) == (False, reason)
    assert application.submit(PICTURE, "a").result(0).code == reason

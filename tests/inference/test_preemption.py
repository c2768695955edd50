"""Pre-emption: what stops background rows, how often, and what that does to limits and estimates."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from service.application import Application
from service.build import build
from service.contract.protocols import CancelPoint
from service.contract.request import Pair, Request, VerdictFuture
from service.inference.engine import Engine, Limits
from service.settings import Settings
from tests.applications import Build
from tests.fakes import (
    PATIENCE,
    PICTURE,
    YES,
    Clock,
    FakeEvents,
    FakePredictor,
    Gate,
    answers,
    ask,
    drain,
    now,
    still,
    until,
)
from tests.inference.background import Arrivals, codes, most_returns, rows

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"


# ---- pre-emption -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("source", ["page", "api", "probe"])
def test_an_arrival_pre_empts_at_the_next_cancel_point(source: str, events: FakeEvents, clock: Clock) -> None:
    predictor = Arrivals({1: lambda: engine.submit(ask("X", source=source))})  # type: ignore[arg-type]
    engine = still(predictor, events, clock, max_batch=4)
    futures = rows(engine, "abcdef")
    engine.step()
    assert codes(futures) == {None}
    assert not any(future.done() for future in futures.values())
    assert engine.activity().background == 6
    drain(engine)
    assert predictor.begun == ["abcd", "X", "ab", "cd", "ef"], "at the front, in their order"
    assert [line[1] for line in events.lines if line[0] == "ended"] == list("Xabcdef")
    assert events.returned == [list("abcd")]
    assert engine.activity().counts == {"accepted": 7, "answered": 7, "preempted": 4}


def test_rows_do_not_pre_empt(events: FakeEvents, clock: Clock) -> None:
    predictor = Arrivals({1: lambda: rows(engine, "c"), 3: lambda: rows(engine, "d")})
    engine = still(predictor, events, clock)
    rows(engine, "ab")
    drain(engine)
    engine.submit(ask("X"))
    drain(engine)
    assert predictor.batches == ["ab", "c", "X", "d"]


def test_a_row_is_pre_empted_three_times_at_most_and_in_ever_smaller_batches(
    events: FakeEvents, clock: Clock
) -> None:
    predictor = Arrivals(dict.fromkeys((1, 3, 5, 7), lambda: engine.submit(ask("X"))))
    engine = still(predictor, events, clock, max_batch=8)
    futures = rows(engine, "abcdefghi")
    drain(engine)
    assert predictor.begun == ["abcdefgh", "X", "abcd", "X", "ab", "X", "a", "X", "b", "cd", "efgh", "i"]
    assert events.returned == [list("abcdefgh"), list("abcd"), list("ab")]
    assert answers(futures) == dict.fromkeys("abcdefghi", "Yes")


def test_constant_arrivals_do_not_stop_the_rows(events: FakeEvents, clock: Clock) -> None:
    """Probes, or one request after the other: each row is computed after three pre-emptions."""
    predictor = Arrivals(dict.fromkeys(range(1, 1000, 2), lambda: engine.submit(ask("P", source="probe"))))
    engine = still(predictor, events, clock, max_batch=4)
    futures = rows(engine, "abcdefgh")
    drain(engine)
    assert answers(futures) == dict.fromkeys("abcdefgh", "Yes")
    assert most_returns(events) == 3
    assert set(predictor.begun[1::2]) == {"P"}, "no probe waits for more than one computation"


def test_what_was_answered_before_the_cancel_point_is_not_computed_again(
    events: FakeEvents, clock: Clock
) -> None:
    """The batch is divided, since d fails it; X arrives while the second half is computed."""
    predictor = Arrivals({3: lambda: engine.submit(ask("X"))}, d=ValueError())
    engine = still(predictor, events, clock)
    futures = rows(engine, "abcd")
    drain(engine)
    assert predictor.begun == ["abcd", "ab", "cd", "X", "cd", "c", "d"]
    assert answers(futures) == {"a": "Yes", "b": "Yes", "c": "Yes", "d": "error"}
    assert events.returned == [list("cd")]


def test_a_row_that_is_cancelled_meanwhile_does_not_go_back(events: FakeEvents, clock: Clock) -> None:
    def arrive() -> None:
        engine.submit(ask("X"))
        futures["a"].cancel()

    predictor = Arrivals({1: arrive})
    engine = still(predictor, events, clock)
    futures = rows(engine, "ab")
    drain(engine)
    assert predictor.begun == ["ab", "X", "b"]
    assert engine.activity().counts == {"accepted": 3, "abandoned": 1, "answered": 2, "preempted": 1}


def test_where_stopping_costs_more_than_waiting_nothing_is_pre_empted(
    events: FakeEvents, clock: Clock
) -> None:
    predictor = Arrivals({1: lambda: engine.submit(ask("X"))})
    engine = still(predictor, events, clock, preemptions=0)
    rows(engine, "ab")
    drain(engine)
    assert predictor.batches == ["ab", "X"]


def test_modelscope_s_process_is_not_pre_empted(make: Build) -> None:
    gate = Gate()

    def judge(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        if pairs[0].hypothesis == "row":
            gate(pairs, cancel)
            cancel()
        return [YES] * len(pairs)

    predictor = FakePredictor(judge)
    application = make(predictor, backend="modelscope", reference_python=Path(sys.executable))
    application.supervisor.load()
    (row,) = application.submit_many(PICTURE, ["row"], source="batch")
    assert gate.entered.wait(PATIENCE)
    user = application.submit(PICTURE, "a red")
    gate.opened.set()
    assert row.result(PATIENCE).label == user.result(PATIENCE).label == "Yes"
    assert [text for text in predictor.seen if text in ("row", "a red")] == ["row", "a red"]
    assert "preempted" not in application.snapshot().activity.counts


# ---- what others are told --------------------------------------------------------------------------------


def test_estimates_count_only_rows_that_are_not_pre_empted(events: FakeEvents, clock: Clock) -> None:
    """Each X takes 2 s, each row at least 7; the fourth time that a row is computed, X waits for it."""
    told: list[tuple[int, float | None]] = []

    def arrive() -> None:
        clock.move(7.0)
        estimate = engine.submit(ask("X", now=clock.now)).queue_estimate
        assert estimate is not None
        told.append((estimate.ahead, estimate.seconds))

    def measure() -> None:
        clock.move(2.0)

    during = {1: measure, **dict.fromkeys((2, 4, 6, 8), arrive), **dict.fromkeys((3, 5, 7, 9), measure)}
    predictor = Arrivals(during)
    engine = still(predictor, events, clock, max_batch=2)
    engine.submit(ask("X"))
    engine.step()
    rows(engine, "ab")
    drain(engine)
    assert predictor.begun == ["X", "ab", "X", "a", "X", "a", "X", "a", "X", "b"]
    assert told == [(0, 2.0), (0, 2.0), (0, 2.0), (1, 4.0)]
    assert engine.activity().service_seconds == 2.0


# ---- the time limit and the watchdog ---------------------------------------------------------------------


def test_the_time_limit_begins_with_each_computation(events: FakeEvents, clock: Clock) -> None:
    def first() -> None:
        clock.move(14)
        engine.tick()
        engine.submit(ask("X", now=clock.now, limit=100))

    def second() -> None:
        clock.move(14)
        engine.tick()

    def third() -> None:
        clock.move(15)
        engine.tick()

    predictor = Arrivals({1: first, 3: second, 4: third})
    engine = still(predictor, events, clock, timeout=15, max_batch=2)
    futures = rows(engine, "ab")
    drain(engine)
    assert predictor.begun == ["ab", "X", "a", "b"]
    assert answers(futures) == {"a": "Yes", "b": "timeout"}
    assert [line for line in events.lines if line[0] == "timed_out"] == [("timed_out", "b", "computing")]
    error = futures["b"].result(0).error
    assert error is not None
    assert error.facts["seconds"] == 15


@pytest.mark.parametrize("preempting", [False, True])
def test_a_hung_computation_of_rows_is_reported_as_any_other(
    preempting: bool, events: FakeEvents, clock: Clock
) -> None:
    """At its time limit, 15 s, the grace of 10 s and the hang limit of 20 s, whether another request waits
    or not."""
    seen: list[tuple[float, bool, bool]] = []
    told: list[tuple[float, list[str]]] = []

    def stuck(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        if preempting:
            engine.submit(ask("X", now=clock.now, limit=1000))
        for _ in range(10):
            clock.move(5)
            engine.tick()
            activity = engine.activity()
            seen.append((clock.now - 1000, activity.not_cancelling, activity.hung))
        return [YES] * len(pairs)

    def hung(requests: Sequence[Request], seconds: float) -> None:
        told.append((clock.now - 1000, [request.id for request in requests]))

    limits = Limits(timeout=15, cancel_grace=10, hang_limit=20)
    engine = Engine(FakePredictor(stuck), events, limits, clock=clock, on_hung=hung)
    futures = rows(engine, "ab")
    engine.step()
    assert answers(futures) == {"a": "timeout", "b": "timeout"}
    assert next(at for at, not_cancelling, _ in seen if not_cancelling) == 25
    assert next(at for at, _, is_hung in seen if is_hung) == 45
    assert told == [(45, ["a", "b"])]


def test_the_timer_watches_rows_with_nothing_else_pending(
    events: FakeEvents, start: Callable[..., Engine]
) -> None:
    gate = Gate(listens=False)
    engine = start(FakePredictor(gate), timeout=0.05, cancel_grace=0.05, hang_limit=0.05)
    time.sleep(0.05)  # let the timer thread begin to wait with nothing pending
    futures = rows(engine, "a", at=time.monotonic())
    assert futures["a"].result(PATIENCE).reason == "timeout"
    assert events.wait_for("hung") == [("hung", "a", "")]
    gate.opened.set()


# ---- with threads and a model ----------------------------------------------------------------------------


def test_under_concurrency_every_row_and_request_ends_exactly_once(
    events: FakeEvents, start: Callable[..., Engine]
) -> None:
    def layers(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        for _ in range(4):
            time.sleep(0.0005)
            cancel()
        return [YES] * len(pairs)

    engine = start(FakePredictor(layers), max_batch=8, batch_wait=0.0)
    ended: Counter[str] = Counter()

    def count(name: str) -> Callable[[object], None]:
        return lambda _: ended.update([name])

    def background() -> None:
        for turn in range(15):
            names = [f"row-{turn}-{n}" for n in range(8)]
            futures = [VerdictFuture() for _ in names]
            for name, future in zip(names, futures, strict=True):
                future.add_done_callback(count(name))
            engine.submit_group([now(name, source="batch") for name in names], futures)  # type: ignore[misc]
            if turn % 5 == 4:
                futures[0].cancel()
            for future in futures[1:]:
                assert future.result(PATIENCE).label == "Yes"

    def caller(number: int) -> None:
        for turn in range(30):
            assert engine.submit(now(f"{number}-{turn}")).result(PATIENCE).reason is None  # type: ignore[arg-type]
            time.sleep(0.003)

    threads = [threading.Thread(target=background), *(_thread(caller, n) for n in range(3))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert engine.stop(PATIENCE)
    assert len(ended) == 15 * 8
    assert set(ended.values()) == {1}
    ends = Counter(line[1] for line in events.lines if line[0] == "ended")
    assert set(ends.values()) == {1}
    counts = engine.activity().counts
    assert counts["accepted"] == len(ends) == 15 * 8 + 3 * 30
    assert counts["preempted"] > 0
    assert most_returns(events) <= 3


def _thread(target: Callable[[int], None], number: int) -> threading.Thread:
    return threading.Thread(target=target, args=(number,))


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Application]:
    """An application with the demo model."""
    application = build(Settings(run_dir=tmp_path, model=str(DEMO), device="cpu", threads=1))
    assert application.supervisor.load()
    yield application
    application.supervisor.stop(0.0)


def test_with_the_demo_model_a_request_goes_ahead_of_rows(demo: Application) -> None:
    """The rows of one picture get the same verdicts with and without a pre-emption."""
    picture = Image.open(DEMO / "examples" / "existence.png")
    texts = [f"there is a {colour} circle" for colour in ("red", "blue", "green", "grey")] * 8
    alone = [future.result(PATIENCE) for future in demo.submit_many(picture, texts)]

    def preempted() -> int:
        return demo.snapshot().activity.counts.get("preempted", 0)

    for _ in range(100):  # a row may be answered before it can be pre-empted
        futures = demo.submit_many(picture, texts, source="batch")
        until(lambda: demo.snapshot().activity.running)
        assert demo.submit(picture, texts[0]).result(PATIENCE).label == alone[0].label
        done = sum(future.done() for future in futures)
        verdicts = [future.result(PATIENCE) for future in futures]
        assert [verdict.label for verdict in verdicts] == [verdict.label for verdict in alone]
        if preempted():
            break
    assert preempted() > 0
    assert done < len(texts), "the request was answered before the rows"

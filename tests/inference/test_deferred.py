"""Close calls whose next precision is not loaded: others are computed meanwhile, and each ends once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import pytest

from service.contract.errors import DeviceLost, OutOfMemory
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from service.inference.engine import Engine, Limits
from service.inference.late_loading import RETRY, LateLoader, Shared
from tests.fakes import (
    NO,
    YES,
    Clock,
    FakeEvents,
    FakePredictor,
    answers,
    ask,
    drain,
    end,
    now,
    still,
    submit,
    until,
)
from tests.inference.background import rows


class Halfway(FakePredictor):
    """Answers NO to names in capitals once its exact weights are ``loaded``; others at once."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded = False
        self.batches: list[str] = []
        self.during: Callable[[], object] = lambda: None

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> list[Mapping[str, float] | None]:
        cancel_point()
        names = [pair.hypothesis for pair in pairs]
        self.batches.append("".join(names))
        found = [(NO if self.loaded else None) if name.isupper() else YES for name in names]
        self.during()
        return found


@pytest.fixture
def predictor() -> Halfway:
    return Halfway()


def load_ends(engine: Engine, predictor: Halfway) -> None:
    predictor.loaded = True
    engine.retry_deferred()


# ---- the engine ------------------------------------------------------------------------------------------


def test_others_are_answered_while_a_close_call_waits(
    predictor: Halfway, events: FakeEvents, clock: Clock
) -> None:
    engine = still(predictor, events, clock, max_batch=2)
    futures = submit(engine, "aBcDe")
    drain(engine)
    assert [name for name, future in futures.items() if future.done()] == list("ace")
    assert engine.activity().depth == 2, "their places stay taken"
    assert predictor.batches == ["aB", "cD", "e"], "nothing is computed for them before the load has ended"
    later = submit(engine, "f")
    load_ends(engine, predictor)
    drain(engine)
    assert predictor.batches[3:] == ["BD", "f"], "ahead of others, in their order"
    assert answers(futures | later) == {"a": "Yes", "B": "No", "c": "Yes", "D": "No", "e": "Yes", "f": "Yes"}
    assert engine.activity().counts == {"accepted": 6, "answered": 6}
    assert engine.activity().depth == 0


def test_a_load_that_ends_within_the_computation_is_not_missed(
    predictor: Halfway, events: FakeEvents, clock: Clock
) -> None:
    """It ends after the pair was judged and before the engine has deferred it."""
    engine = still(predictor, events, clock)
    predictor.during = lambda: load_ends(engine, predictor)
    futures = submit(engine, "A")
    drain(engine)
    assert answers(futures) == {"A": "No"}
    assert predictor.batches == ["A", "A"]


def test_a_deferred_request_keeps_its_deadline(predictor: Halfway, events: FakeEvents, clock: Clock) -> None:
    engine = still(predictor, events, clock)
    futures = submit(engine, "A", limit=15.0)
    drain(engine)
    clock.move(14.9)
    engine.tick()
    assert not futures["A"].done()
    clock.move(0.2)
    engine.tick()
    assert answers(futures) == {"A": "timeout"}
    assert events.lines[-1] == ("timed_out", "A", "waiting")
    load_ends(engine, predictor)
    assert not engine.step(), "it ends once"
    assert engine.activity().counts == {"accepted": 1, "timeout": 1}


def test_a_deferred_request_can_be_cancelled(predictor: Halfway, events: FakeEvents, clock: Clock) -> None:
    engine = still(predictor, events, clock)
    futures = submit(engine, "A")
    drain(engine)
    assert futures["A"].cancel()
    assert engine.activity().counts == {"accepted": 1, "abandoned": 1}
    load_ends(engine, predictor)
    assert not engine.step()


def test_deferred_requests_are_bounded_by_the_queue(
    predictor: Halfway, events: FakeEvents, clock: Clock
) -> None:
    engine = still(predictor, events, clock, queue_size=3)
    futures = submit(engine, "ABC")
    drain(engine)
    assert answers(submit(engine, "d")) == {"d": "busy"}
    load_ends(engine, predictor)
    drain(engine)
    assert answers(futures) == dict.fromkeys("ABC", "No")
    assert not submit(engine, "d")["d"].done()


def test_a_deferred_row_has_a_deadline_until_it_waits_again(
    predictor: Halfway, events: FakeEvents, clock: Clock
) -> None:
    engine = still(predictor, events, clock, timeout=15.0)
    futures = rows(engine, "aBC")
    drain(engine)
    assert (engine.activity().background, engine.activity().depth) == (2, 0)
    load_ends(engine, predictor)
    clock.move(1000.0)
    engine.tick()
    drain(engine)
    assert answers(futures) == {"a": "Yes", "B": "No", "C": "No"}
    assert "preempted" not in engine.activity().counts
    predictor.loaded = False
    futures = rows(engine, "D")
    drain(engine)
    clock.move(15.0)
    engine.tick()
    assert answers(futures) == {"D": "timeout"}, "a load that never ends holds no row for ever"


def test_a_deferred_probe_keeps_its_place(predictor: Halfway, events: FakeEvents, clock: Clock) -> None:
    engine = still(predictor, events, clock)
    probe = engine.submit(ask("P", source="probe"))
    drain(engine)
    assert engine.submit(ask("P", source="probe")).result(0).reason == "busy"
    assert engine.activity().depth == 0
    load_ends(engine, predictor)
    drain(engine)
    assert probe.result(0).label == "No"


def test_stopping_answers_a_deferred_request_if_the_load_ends_in_time(predictor: Halfway) -> None:
    events = FakeEvents()
    engine = Engine(predictor, events, Limits())
    engine.start()
    future = engine.submit(now("A"))  # type: ignore[arg-type]
    until(lambda: predictor.batches == ["A"] and engine.activity().depth == 1)
    threading.Timer(0.05, load_ends, (engine, predictor)).start()
    assert engine.stop(60.0)
    assert future.result(0).label == "No"


def test_stopping_ends_a_request_whose_load_goes_on(predictor: Halfway) -> None:
    events = FakeEvents()
    engine = Engine(predictor, events, Limits())
    engine.start()
    future = engine.submit(now("A"))  # type: ignore[arg-type]
    until(lambda: predictor.batches == ["A"] and engine.activity().depth == 1)
    end(engine)
    assert future.result(0).reason == "stopping"


# ---- the loading thread ----------------------------------------------------------------------------------


class Model:
    """What a loader is asked for."""


class Load:
    """A load that takes until ``opened``, and then raises ``error`` if there is one."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.times = 0
        self.opened = threading.Event()

    def __call__(self) -> None:
        self.times += 1
        assert self.opened.wait(60.0)
        if self.error is not None:
            raise self.error


@pytest.fixture
def ready() -> Iterator[list[int]]:
    return []


def loader_of(ready: list[int], clock: Callable[[], float] = time.monotonic) -> LateLoader:
    return LateLoader(lambda: ready.append(1), clock)


def test_one_load_runs_at_a_time(ready: list[int]) -> None:
    loader, load, other = loader_of(ready), Load(), Load()
    for one in (load, load, other):
        loader.begin(Model(), "fp32", one)
    load.opened.set()
    until(lambda: ready == [1])
    assert (load.times, other.times) == (1, 0)
    assert loader.stop(60.0)


def test_the_error_of_a_failed_load_is_raised_until_the_next_attempt(ready: list[int], clock: Clock) -> None:
    loader, load, model = loader_of(ready, clock), Load(OutOfMemory("full")), Model()
    load.opened.set()
    loader.begin(model, "fp32", load)
    until(lambda: ready == [1])
    clock.move(RETRY - 0.1)
    for _ in range(2):
        with pytest.raises(OutOfMemory):
            loader.begin(model, "fp32", load)
    clock.move(0.2)
    load.error = None
    loader.begin(model, "fp32", load)
    until(lambda: ready == [1, 1])
    loader.begin(model, "fp32", load)
    assert loader.stop(60.0)
    assert load.times == 3


def test_a_failure_is_the_models_own(ready: list[int]) -> None:
    loader, lost, load = loader_of(ready), Load(DeviceLost("lost")), Load()
    for one in (lost, load):
        one.opened.set()
    failing = Model()
    loader.begin(failing, "fp32", lost)
    until(lambda: ready == [1])
    loader.begin(Model(), "fp32", load)
    until(lambda: ready == [1, 1])
    with pytest.raises(DeviceLost):
        loader.begin(failing, "fp32", lost)


def test_a_stop_waits_for_the_load_and_starts_no_other(ready: list[int]) -> None:
    loader, load, other = loader_of(ready), Load(), Load()
    loader.begin(Model(), "fp32", load)
    assert not loader.stop(0.05)
    load.opened.set()
    assert loader.stop(60.0)
    loader.begin(Model(), "fp32", other)
    assert other.times == 0


def test_what_two_threads_need_is_loaded_once_and_freed_after_both() -> None:
    loads: list[Model] = []
    shared = Shared(lambda: loads.append(1) or Model())  # type: ignore[func-returns-value,arg-type]
    first, second = shared(), shared()
    assert first is second
    del first, second
    shared()
    assert len(loads) == 2

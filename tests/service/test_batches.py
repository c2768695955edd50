"""Requests computed together: each keeps its own deadline, its own error and its own single answer."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from PIL import Image

from service.engine import Engine, Limits
from service.errors import DeviceLost, InferenceError, InputError, NotReady, OutOfMemory, ServiceError
from service.jobs import Pace
from service.ladder import Ladder
from service.predictor import NativePredictor
from service.protocols import CancelPoint
from service.request import Pair, Request, Verdict
from tests.fakes import (
    NO,
    PATIENCE,
    PICTURE,
    YES,
    Clock,
    FakeGpuModel,
    FakeJournal,
    FakePredictor,
    Gate,
    ask,
    now,
    still,
)

NAN = {"Yes": float("nan"), "No": 0.5, "Maybe": 0.5}
LONG = 3600.0  # seconds: a limit that keeps no batch small, however slow the machine is
DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"


class Sizes(FakePredictor):
    """Keeps what it was asked together; a pair that ``spoils`` has an error for fails the whole batch."""

    def __init__(self, **spoils: Exception) -> None:
        super().__init__()
        self.batches: list[str] = []
        self.spoils = spoils

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        cancel_point()
        names = [pair.hypothesis for pair in pairs]
        self.batches.append("".join(names))
        for name in names:
            if name in self.spoils:
                raise self.spoils[name]
        return [NO if name.isupper() else YES for name in names]


def answers(futures: Mapping[str, Future[Verdict]]) -> dict[str, str]:
    return {name: future.result(0).reason or future.result(0).label for name, future in futures.items()}


def submit(engine: Engine, names: str, **more: float) -> dict[str, Future[Verdict]]:
    return {name: engine.submit(ask(name, **more)) for name in names}  # type: ignore[arg-type]


def drain(engine: Engine) -> None:
    while engine.step():
        pass


# ---- what is taken together ------------------------------------------------------------------------------


def test_what_waits_is_computed_together_in_its_order_up_to_the_maximum(
    journal: FakeJournal, clock: Clock
) -> None:
    predictor = Sizes()
    engine = still(predictor, journal, clock, max_batch=3)
    futures = submit(engine, "abCde")
    drain(engine)
    assert predictor.batches == ["abC", "de"]
    assert answers(futures) == {"a": "Yes", "b": "Yes", "C": "No", "d": "Yes", "e": "Yes"}
    assert [line[1] for line in journal.lines] == list("abCde")


@pytest.mark.parametrize(("device", "most"), [("cpu", 4), ("cuda:0", 32)])
def test_unless_told_the_maximum_goes_by_the_device(
    device: str, most: int, journal: FakeJournal, clock: Clock
) -> None:
    predictor = Sizes()
    predictor.device = device
    engine = still(predictor, journal, clock, queue_size=100)
    for _ in range(40):
        engine.submit(ask("b"))
    engine.step()
    assert len(predictor.batches[0]) == most


def test_a_probe_is_alone_in_its_batch(journal: FakeJournal, clock: Clock) -> None:
    predictor = Sizes()
    engine = still(predictor, journal, clock)
    submit(engine, "ab")
    engine.submit(ask("P", source="probe"))
    drain(engine)
    assert predictor.batches == ["P", "ab"]


def test_no_more_is_taken_than_can_be_done_in_half_the_time_left(journal: FakeJournal, clock: Clock) -> None:
    def two_seconds(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(2.0 * len(pairs))
        return [YES] * len(pairs)

    engine = still(FakePredictor(two_seconds), journal, clock, max_batch=8)
    submit(engine, "a", limit=15)
    engine.step()
    futures = {name: engine.submit(ask(name, now=clock.now, limit=15)) for name in "bcdefg"}
    engine.step()
    assert sorted(name for name, future in futures.items() if future.done()) == ["b", "c", "d"]
    engine.submit(ask("h", now=clock.now, limit=1))  # too late for its own good; it is tried all the same
    assert engine.step()


def test_a_batch_shows_in_the_activity_and_in_the_wait_told(journal: FakeJournal, clock: Clock) -> None:
    seen: list[tuple[bool, int, int, float]] = []

    def look(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        activity = engine.activity()
        seen.append((activity.running, activity.computing, activity.depth, activity.retry_after))
        clock.move(3.0)
        return [YES] * len(pairs)

    engine = still(FakePredictor(look), journal, clock, max_batch=2)
    submit(engine, "abc")
    drain(engine)
    assert seen[0] == (True, 2, 1, 3.0)  # three requests at an assumed second each
    assert seen[1] == (True, 1, 0, 2.0)  # one at the 1.5 s that each of the two took
    assert engine.activity().computing == 0


def test_every_request_counts_once_in_the_average() -> None:
    one_by_one, together = Pace(), Pace()
    for pace in (one_by_one, together):
        pace.note(1, 1.0)
    for _ in range(8):
        one_by_one.note(1, 0.25)
    together.note(8, 2.0)
    assert together.seconds == pytest.approx(one_by_one.seconds)
    assert Pace().within(0.0, 4) == 4  # nothing is known yet
    assert [together.within(seconds, 4) for seconds in (-1.0, 0.0, 1.0, 100.0)] == [1, 1, 2, 4]


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
    journal: FakeJournal, clock: Clock
) -> None:
    seen: list[dict[str, bool]] = []

    def layers(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        for _ in range(3):
            clock.move(5)
            engine.tick()
            cancel()  # never raises while somebody waits
            seen.append({name: future.done() for name, future in futures.items()})
        return [YES] * len(pairs)

    engine = still(FakePredictor(layers), journal, clock)
    limits = {"a": 5, "b": 10, "c": 60}
    futures = {name: engine.submit(ask(name, limit=limit)) for name, limit in limits.items()}
    engine.step()
    assert seen == [
        {"a": True, "b": False, "c": False},
        {"a": True, "b": True, "c": False},
        {"a": True, "b": True, "c": False},
    ]
    assert answers(futures) == {"a": "timeout", "b": "timeout", "c": "Yes"}
    assert [line for line in journal.lines if line[0] == "late"] == [
        ("late", "a", "answer"),
        ("late", "b", "answer"),
    ]
    assert engine.activity().counts == {"accepted": 3, "timeout": 2, "answered": 1}


def test_a_batch_is_stopped_only_when_nobody_waits_for_any_of_it(journal: FakeJournal, clock: Clock) -> None:
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

    engine = still(FakePredictor(layers), journal, clock)
    expiring, leaving, patient = (engine.submit(ask(n, limit=s)) for n, s in (("a", 5), ("b", 60), ("c", 10)))
    engine.step()
    assert engine.activity().counts == {"accepted": 3, "timeout": 2, "abandoned": 1}
    assert [line for line in journal.lines if line[0] == "late"] == [("late", n, "stopped") for n in "abc"]


def test_a_caller_who_leaves_a_batch_takes_nobody_along(journal: FakeJournal, clock: Clock) -> None:
    def leave(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        futures["b"].cancel()
        cancel()
        return [YES] * len(pairs)

    engine = still(FakePredictor(leave), journal, clock)
    futures = submit(engine, "abc")
    engine.step()
    assert [futures[name].result(0).label for name in "ac"] == ["Yes", "Yes"]
    assert engine.activity().counts == {"accepted": 3, "abandoned": 1, "answered": 2}


def test_every_request_of_a_stuck_batch_is_named(journal: FakeJournal, clock: Clock) -> None:
    told: list[list[str]] = []

    def stuck(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        for _ in range(10):
            clock.move(5)
            engine.tick()
        return [YES] * len(pairs)

    def hung(requests: Sequence[Request], seconds: float) -> None:
        told.append([request.id for request in requests])

    engine = Engine(
        FakePredictor(stuck), journal, Limits(cancel_grace=5, hang_limit=5), clock=clock, on_hung=hung
    )
    submit(engine, "ab")
    engine.step()
    assert told == [["a", "b"]]


# ---- errors ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "error",
    [
        InputError("This text does not fit.", code="premise_refused"),
        InferenceError("Unexpected ValueError in the model."),
        OutOfMemory("The memory is full."),
        ValueError("foreign"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_one_bad_request_fails_alone(error: Exception, journal: FakeJournal, clock: Clock) -> None:
    predictor = Sizes(d=error)
    engine = still(predictor, journal, clock, max_batch=8)
    futures = submit(engine, "abcdeF")
    drain(engine)
    reason = error.code if isinstance(error, ServiceError) else "error"
    assert answers(futures) == {"a": "Yes", "b": "Yes", "c": "Yes", "d": reason, "e": "Yes", "F": "No"}
    assert predictor.batches == ["abcdeF", "abc", "deF", "d", "eF"]
    assert engine.activity().counts["divided"] == 2
    assert sum(line[0] == "broken" for line in journal.lines) == (not isinstance(error, ServiceError))


def test_when_all_are_bad_each_fails_once_and_alone(journal: FakeJournal, clock: Clock) -> None:
    predictor = Sizes(a=ValueError(), b=ValueError(), c=ValueError())
    engine = still(predictor, journal, clock)
    futures = submit(engine, "abc")
    drain(engine)
    assert answers(futures) == dict.fromkeys("abc", "error")
    assert predictor.batches == ["abc", "a", "bc", "b", "c"]


@pytest.mark.parametrize("error", [DeviceLost("The device is gone."), NotReady("Loading.")])
def test_what_is_gone_for_all_is_not_tried_again(
    error: ServiceError, journal: FakeJournal, clock: Clock
) -> None:
    predictor = Sizes(b=error)
    engine = still(predictor, journal, clock)
    futures = submit(engine, "abc")
    drain(engine)
    assert answers(futures) == dict.fromkeys("abc", error.code)
    assert predictor.batches == ["abc"]


def test_scores_that_are_not_finite_spoil_one_answer(journal: FakeJournal, clock: Clock) -> None:
    engine = still(FakePredictor(lambda pairs, cancel: [YES, NAN, NO]), journal, clock)
    futures = submit(engine, "abc")
    engine.step()
    assert answers(futures) == {"a": "Yes", "b": "error", "c": "No"}


def test_what_expires_while_a_batch_is_divided_is_not_computed_again(
    journal: FakeJournal, clock: Clock
) -> None:
    def slow_failure(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(10)
        if len(pairs) > 1:
            raise InferenceError("Too many.")
        return [YES]

    predictor = FakePredictor(slow_failure)
    engine = still(predictor, journal, clock)
    patient, hasty = engine.submit(ask("a", limit=60)), engine.submit(ask("b", limit=15))
    engine.step()
    assert (patient.result(0).label, hasty.result(0).reason) == ("Yes", "timeout")
    assert predictor.seen == ["a", "b", "a"]


# ---- memory ----------------------------------------------------------------------------------------------


def test_a_batch_too_large_for_the_memory_is_answered_in_smaller_ones(
    journal: FakeJournal, clock: Clock
) -> None:
    model = FakeGpuModel(lambda device, size: size <= 3)
    engine = still(Ladder(model, lambda: Pair(PICTURE, "a")), journal, clock)  # type: ignore[arg-type]
    futures = submit(engine, "abcdefgh")
    engine.step()
    assert answers(futures) == dict.fromkeys("abcdefgh", "Yes")
    assert {future.result(0).device for future in futures.values()} == {"cuda:0"}
    assert model.seen == list("abcdefgh")
    assert "move cpu" not in model.events


def test_a_cpu_without_room_for_the_batch_answers_its_parts(journal: FakeJournal, clock: Clock) -> None:
    model = FakeGpuModel(lambda device, size: device == "cpu" and size <= 2)
    engine = still(Ladder(model, lambda: Pair(PICTURE, "a")), journal, clock)  # type: ignore[arg-type]
    futures = submit(engine, "abcde")
    engine.step()
    assert answers(futures) == dict.fromkeys("abcde", "Yes")
    assert {future.result(0).device for future in futures.values()} == {"cpu"}


# ---- exactly once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_every_accepted_request_ends_exactly_once_whatever_happens_to_its_batch(
    seed: int, journal: FakeJournal, start: Callable[..., Engine]
) -> None:
    dice = random.Random(seed)
    sizes: Counter[int] = Counter()

    def mixed(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        sizes[len(pairs)] += 1
        for _ in range(dice.randrange(6)):
            time.sleep(0.0005)
            cancel()
        kinds = [pair.hypothesis.partition(" ")[0] for pair in pairs]
        if "refused" in kinds:
            raise InputError("This text does not fit.", code="premise_refused")
        if "large" in kinds and len(pairs) > 1:
            raise OutOfMemory("The memory is full.")
        if "foreign" in kinds:
            raise KeyError
        return [NAN if kind == "nan" else NO if kind == "no" else YES for kind in kinds]

    engine = start(FakePredictor(mixed), queue_size=24, max_batch=6, batch_wait=0.002)
    outcomes: dict[str, str] = {}
    lock = threading.Lock()

    def caller(number: int) -> None:
        own = random.Random(100 * seed + number)
        for turn in range(30):
            kind = own.choice(["yes", "yes", "no", "nan", "refused", "large", "foreign"])
            name, limit = f"{number}-{turn}", own.choice([0.002, 0.01, 60.0])
            future = engine.submit(now(name, limit=limit, text=f"{kind} {name}"))  # type: ignore[arg-type]
            if own.random() < 0.1 and future.cancel():
                outcome = "left"
            else:
                verdict = future.result(PATIENCE)
                outcome = verdict.reason or verdict.label
                assert verdict.request_id == name
            allowed = {"busy", "timeout", "left", *WANTED[kind]}
            with lock:
                outcomes[name] = outcome if outcome in allowed else f"{kind} got {outcome}"

    callers = [threading.Thread(target=caller, args=(number,)) for number in range(10)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(PATIENCE)
    assert engine.stop(PATIENCE)

    assert len(outcomes) == 300
    found = Counter(outcomes.values())
    assert set(found) <= {"Yes", "No", "error", "premise_refused", "busy", "timeout", "left"}
    ends = Counter(line[1] for line in journal.lines if line[0] in ("ended", "timed_out"))
    assert set(ends.values()) == {1}
    counts = engine.activity().counts
    assert len(ends) == counts["accepted"] == 300 - counts.get("rejected", 0)
    # Who leaves at the moment of the answer is counted by it.
    more = {
        "answered": counts["answered"] - found["Yes"] - found["No"],
        "error": counts["error"] - found["error"] - found["premise_refused"],
        "timeout": counts.get("timeout", 0) - found["timeout"],
    }
    assert min(more.values()) >= 0
    assert sum(more.values()) + counts.get("abandoned", 0) == found["left"]
    assert max(sizes) > 1  # else nothing was tested


WANTED = {
    "yes": {"Yes"},
    "large": {"Yes"},
    "no": {"No"},
    "nan": {"error"},
    "refused": {"premise_refused"},
    "foreign": {"error"},
}


# ---- with a real model -----------------------------------------------------------------------------------


def test_together_the_model_answers_what_it_answers_one_by_one(journal: FakeJournal, clock: Clock) -> None:
    predictor = NativePredictor(device="cpu", dtype="fp32")
    predictor.load(DEMO)
    try:
        pictures = [predictor.prepare(Image.open(path)) for path in sorted((DEMO / "examples").glob("*.png"))]
        texts = ["a red circle", "there is a blue square to the left of a green circle", "Two shapes!"]
        pairs = [Pair(picture, text) for picture in pictures[:3] for text in texts]
        single = [predictor.judge([pair], lambda: None)[0] for pair in pairs]
        pairs.insert(4, Pair(pictures[0], texts[0], premise=texts[1]))  # which this model's prompt refuses
        engine = still(predictor, journal, clock, max_batch=16)  # type: ignore[arg-type]
        futures = [engine.submit(Request(str(i), pair, 1000.0, 1015.0)) for i, pair in enumerate(pairs)]
        assert engine.step()
        verdicts = [future.result(0) for future in futures]
        assert verdicts.pop(4).reason == "premise_refused"
        for verdict, expected in zip(verdicts, single, strict=True):
            assert verdict.scores == pytest.approx(expected, abs=1e-5)
        assert len({verdict.scores["Yes"] for verdict in verdicts if verdict.scores}) > 5
    finally:
        predictor.close()

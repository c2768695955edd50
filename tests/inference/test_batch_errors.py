"""Requests computed together: one that fails fails alone, and each is answered exactly once."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from service.contract.errors import (
    DeviceLost,
    InferenceError,
    InputError,
    NotReady,
    OutOfMemory,
    ServiceError,
)
from service.contract.protocols import CancelPoint
from service.contract.request import Pair, Request
from service.inference.engine import Engine
from service.inference.memory_fallback import MemoryFallback
from service.inference.native import NativePredictor
from service.intake.image import converted
from tests.fakes import (
    NO,
    PATIENCE,
    PICTURE,
    YES,
    Clock,
    FakeEvents,
    FakeGpuModel,
    FakePredictor,
    Sizes,
    answers,
    ask,
    drain,
    now,
    still,
    submit,
)

NAN = {"Yes": float("nan"), "No": 0.5, "Maybe": 0.5}
DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"

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
def test_one_bad_request_fails_alone(error: Exception, events: FakeEvents, clock: Clock) -> None:
    predictor = Sizes(d=error)
    engine = still(predictor, events, clock, max_batch=8)
    futures = submit(engine, "abcdeF")
    drain(engine)
    reason = error.code if isinstance(error, ServiceError) else "error"
    assert answers(futures) == {"a": "Yes", "b": "Yes", "c": "Yes", "d": reason, "e": "Yes", "F": "No"}
    assert predictor.batches == ["abcdeF", "abc", "deF", "d", "eF"]
    assert engine.activity().counts["divided"] == 2
    assert sum(line[0] == "broken" for line in events.lines) == (not isinstance(error, ServiceError))


def test_when_all_are_bad_each_fails_once_and_alone(events: FakeEvents, clock: Clock) -> None:
    predictor = Sizes(a=ValueError(), b=ValueError(), c=ValueError())
    engine = still(predictor, events, clock)
    futures = submit(engine, "abc")
    drain(engine)
    assert answers(futures) == dict.fromkeys("abc", "error")
    assert predictor.batches == ["abc", "a", "bc", "b", "c"]


@pytest.mark.parametrize("error", [DeviceLost("The device is gone."), NotReady("Loading.")])
def test_what_is_gone_for_all_is_not_tried_again(
    error: ServiceError, events: FakeEvents, clock: Clock
) -> None:
    predictor = Sizes(b=error)
    engine = still(predictor, events, clock)
    futures = submit(engine, "abc")
    drain(engine)
    assert answers(futures) == dict.fromkeys("abc", error.code)
    assert predictor.batches == ["abc"]


def test_scores_that_are_not_finite_spoil_one_answer(events: FakeEvents, clock: Clock) -> None:
    engine = still(FakePredictor(lambda pairs, cancel: [YES, NAN, NO]), events, clock)
    futures = submit(engine, "abc")
    engine.step()
    assert answers(futures) == {"a": "Yes", "b": "error", "c": "No"}


def test_what_expires_while_a_batch_is_divided_is_not_computed_again(
    events: FakeEvents, clock: Clock
) -> None:
    def slow_failure(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        clock.move(10)
        if len(pairs) > 1:
            raise InferenceError("Too many.")
        return [YES]

    predictor = FakePredictor(slow_failure)
    engine = still(predictor, events, clock)
    patient, hasty = engine.submit(ask("a", limit=60)), engine.submit(ask("b", limit=15))
    engine.step()
    assert (patient.result(0).label, hasty.result(0).reason) == ("Yes", "timeout")
    assert predictor.seen == ["a", "b", "a"]


# ---- memory ----------------------------------------------------------------------------------------------


def test_a_batch_too_large_for_the_memory_is_answered_in_smaller_ones(
    events: FakeEvents, clock: Clock
) -> None:
    model = FakeGpuModel(lambda device, size: size <= 3)
    engine = still(MemoryFallback(model, lambda: Pair(PICTURE, "a")), events, clock)  # type: ignore[arg-type]
    futures = submit(engine, "abcdefgh")
    engine.step()
    assert answers(futures) == dict.fromkeys("abcdefgh", "Yes")
    assert {future.result(0).device for future in futures.values()} == {"cuda:0"}
    assert model.seen == list("abcdefgh")
    assert "move cpu" not in model.events


def test_a_cpu_without_room_for_the_batch_answers_its_parts(events: FakeEvents, clock: Clock) -> None:
    model = FakeGpuModel(lambda device, size: device == "cpu" and size <= 2)
    engine = still(MemoryFallback(model, lambda: Pair(PICTURE, "a")), events, clock)  # type: ignore[arg-type]
    futures = submit(engine, "abcde")
    engine.step()
    assert answers(futures) == dict.fromkeys("abcde", "Yes")
    assert {future.result(0).device for future in futures.values()} == {"cpu"}


# ---- exactly once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_every_accepted_request_ends_exactly_once_whatever_happens_to_its_batch(
    seed: int, events: FakeEvents, start: Callable[..., Engine]
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
    ends = Counter(line[1] for line in events.lines if line[0] in ("ended", "timed_out"))
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


def test_together_the_model_answers_what_it_answers_one_by_one(events: FakeEvents, clock: Clock) -> None:
    predictor = NativePredictor(device="cpu", dtype="fp32")
    predictor.load(DEMO)
    try:
        paths = sorted((DEMO / "examples").glob("*.png"))
        pictures = [
            converted(Image.open(path), side=predictor.side(), max_pixels=10**6).image for path in paths
        ]
        texts = ["a red circle", "there is a blue square to the left of a green circle", "Two shapes!"]
        pairs = [Pair(picture, text) for picture in pictures[:2] for text in texts]
        single = [predictor.judge([pair], lambda: None)[0] for pair in pairs]
        pairs.insert(4, Pair(pictures[0], texts[0], premise=texts[1]))  # which this model's prompt refuses
        engine = still(predictor, events, clock, max_batch=16)  # type: ignore[arg-type]
        futures = [engine.submit(Request(str(i), pair, 1000.0, 1015.0)) for i, pair in enumerate(pairs)]
        assert engine.step()
        verdicts = [future.result(0) for future in futures]
        assert verdicts.pop(4).reason == "premise_refused"
        for verdict, expected in zip(verdicts, single, strict=True):
            assert verdict.scores == pytest.approx(expected, abs=1e-5)
        assert len({verdict.scores["Yes"] for verdict in verdicts if verdict.scores}) > 3
    finally:
        predictor.close()

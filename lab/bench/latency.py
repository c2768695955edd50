"""Latency of single requests, of further sentences about one picture, and of eight requests at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from PIL import Image

from lab.bench.cases import mixed, photograph, sentence
from lab.bench.sides import FP32, REFERENCE, Judge, Subject
from lab.bench.timing import Side, Spread, alternate, ratio, timed
from lab.reference.process import ReferenceFailed, ReferenceProcess
from ofa.pair import Pair

#: Calls of our side per call of ModelScope's, which takes longer.
OFTEN: Final = 3
TOGETHER: Final = 8


def latency(subject: Subject, others: Mapping[str, Judge] | None = None) -> dict[str, Any]:
    """Measure batches of one; in each round every side gets the same picture and sentence."""
    sides: dict[str, Side] = {}
    result: dict[str, Any] = {}
    if (reference := subject.reference) is not None:
        sides[REFERENCE] = _reference_call(reference, subject)
        result["reference_versions"] = dict(subject.versions)
    pictures = [Image.open(path).convert("RGB") for path in subject.pictures]
    for name, model in {**subject.ours(), **(others or {})}.items():
        sides[name] = _call(model, pictures, subject.device)
    often = {name: OFTEN for name in sides if name not in (REFERENCE, FP32)}
    spreads = alternate(sides, subject.rounds, warm=2, often=often)
    result["sides"] = {name: spread.as_dict() for name, spread in spreads.items()}
    if REFERENCE in spreads:
        slow = spreads[REFERENCE].median
        result["ratios"] = {
            name: ratio(slow, spread.median) for name, spread in spreads.items() if name != REFERENCE
        }
    counts = subject.guarded.counts
    if counts.judged:
        result["recomputed_share"] = round(counts.recomputed[FP32] / counts.judged, 4)
    return result


def _reference_call(reference: ReferenceProcess, subject: Subject) -> Side:
    def call(turn: int) -> float:
        picture = subject.pictures[turn % len(subject.pictures)]
        reply = reference.ask("judge", picture=str(picture), text=sentence(turn))
        return float(reply["seconds"])

    return call


def _call(model: Judge, pictures: list[Image.Image], device: str) -> Side:
    def call(turn: int) -> float:
        # A copy: the cache of encoded pictures would skip one that was seen before.
        pair = Pair(pictures[turn % len(pictures)].copy(), sentence(turn))
        return timed(lambda: model.judge([pair]), device)

    return call


def pictures(subject: Subject) -> dict[str, Any]:
    """Measure sentences about a cached picture: the second one, and each of many."""
    many = 8 if subject.quick else 50
    turns = 3 if subject.quick else 7

    def one(turn: int) -> float:
        return _seconds(subject, [Pair(photograph(turn), sentence(turn))])

    def two(turn: int) -> float:
        picture = photograph(turn)
        return _seconds(subject, [Pair(picture, sentence(turn)), Pair(picture, sentence(turn))])

    spreads = alternate({"one": one, "two": two}, turns)
    first, second = spreads["one"].median, spreads["two"].median - spreads["one"].median
    picture = photograph(1)
    together = _seconds(subject, [Pair(picture, sentence(index)) for index in range(many)])
    return {
        "side": subject.low_name,
        "first_sentence": round(first, 4),
        "second_sentence": round(second, 4),
        "second_faster_by": round(1 - second / first, 3),
        "sentences": many,
        "each_of_many": round(together / many, 4),
        "each_of_many_faster_by": round(1 - together / many / first, 3),
    }


def _seconds(subject: Subject, pairs: list[Pair]) -> float:
    return timed(lambda: subject.fast.judge(pairs), subject.device)


def together(subject: Subject) -> dict[str, Any]:
    """Measure eight different pictures and sentences, in one batch and one after the other."""
    pairs = mixed(TOGETHER)

    def at_once(_: int) -> float:
        return _seconds(subject, pairs)

    def in_turn(_: int) -> float:
        return sum(_seconds(subject, [pair]) for pair in pairs)

    spreads: dict[str, Spread] = alternate(
        {"at once": at_once, "one by one": in_turn}, 2 if subject.quick else 4
    )
    once, turn = spreads["at once"].median, spreads["one by one"].median
    result: dict[str, Any] = {
        "side": subject.low_name,
        "requests": TOGETHER,
        "at_once_per_second": round(TOGETHER / once, 3),
        "one_by_one_per_second": round(TOGETHER / turn, 3),
        "ratio": ratio(turn, once),
    }
    if (reference := subject.reference) is not None:
        result["reference"] = _reference_batch(reference, subject)
    return result


def _reference_batch(reference: ReferenceProcess, subject: Subject) -> str:
    """Return ModelScope's rate for a batch of eight, or its error."""
    paths = [str(subject.pictures[index % len(subject.pictures)]) for index in range(TOGETHER)]
    try:
        reply = reference.ask("batch", pictures=paths, texts=[sentence(index) for index in range(TOGETHER)])
    except ReferenceFailed as error:
        return f"fails: {error}"
    return f"{TOGETHER / reply['seconds']:.3f} a second"

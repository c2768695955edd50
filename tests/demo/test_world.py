"""Truth values of statements about a scene."""

from __future__ import annotations

import pytest

from lab.demo_training.claims import At, Both, Claim, Count, Exists, Is, NoneIs, Related
from lab.demo_training.world import (
    COLOURS,
    MAX_ASPECT,
    MAX_SIDE,
    MIN_SIDE,
    SHAPES,
    Kind,
    Scene,
    Thing,
    scenes,
)

CIRCLE, SQUARE, STAR, RED = Kind("circle"), Kind("square"), Kind("star"), Kind(None, "red")
BLUE, GREEN, LARGE = Kind(None, "blue"), Kind(None, "green"), Kind(None, None, "large")


def scene(*things: Thing) -> Scene:
    return Scene(200, 200, things, 1.0, 1)


#: A large red circle left, a small blue circle right, a red square low in the middle column.
THREE = scene(
    Thing("circle", "red", 0.35, 0.2, 0.3),
    Thing("circle", "blue", 0.15, 0.8, 0.3),
    Thing("square", "red", 0.30, 0.5, 0.85),
)
EMPTY = scene()


@pytest.mark.parametrize(
    ("claim", "truth"),
    [
        (Exists(Kind("circle", "red")), True),
        (Exists(Kind("square", "blue")), False),
        (Exists(STAR, negated=True), True),
        (Exists(CIRCLE, negated=True), False),
        (Count(CIRCLE, 2), True),
        (Count(CIRCLE, 1), False),
        (Count(Kind(), 2), False),
        (Count(Kind(), 3), True),
        (Count(STAR, 0), True),
        (Is(SQUARE, RED), True),
        (Is(SQUARE, BLUE), False),
        (Is(STAR, RED), False),
        (Is(STAR, RED, negated=True), None),
        (Is(CIRCLE, RED), None),
        (Is(CIRCLE, GREEN), False),
        (Is(CIRCLE, GREEN, negated=True), True),
        (Is(CIRCLE, RED, each=True), False),
        (Is(RED, LARGE), True),
        (NoneIs(CIRCLE, GREEN), True),
        (NoneIs(CIRCLE, RED), False),
        (NoneIs(STAR, RED), True),
        (At(SQUARE, "bottom"), True),
        (At(SQUARE, "left"), None),
        (At(SQUARE, "centre"), False),
        (At(CIRCLE, "top"), True),
        (At(CIRCLE, "left"), None),
        (At(CIRCLE, "left", some=True), True),
        (At(STAR, "left"), False),
        (At(SQUARE, "top", negated=True), True),
        (Related(Kind("circle", "blue"), SQUARE, "above"), True),
        (Related(Kind("circle", "blue"), SQUARE, "left of"), False),
        (Related(CIRCLE, SQUARE, "above"), None),
        (Related(CIRCLE, SQUARE, "above", some=True), True),
        (Related(STAR, SQUARE, "above"), False),
        (Both(Exists(CIRCLE), Exists(SQUARE)), True),
        (Both(Exists(CIRCLE), Exists(STAR)), False),
        (Both(Exists(CIRCLE), Exists(STAR, negated=True)), True),
    ],
)
def test_a_claim_is_true_false_or_undecided(claim: Claim, truth: bool | None) -> None:
    assert claim.truth(THREE) is truth


@pytest.mark.parametrize(
    ("claim", "truth"),
    [
        (Exists(CIRCLE), False),
        (Exists(CIRCLE, negated=True), True),
        (Count(Kind(), 0), True),
        (Is(CIRCLE, RED), False),
        (Is(CIRCLE, RED, each=True), False),
        (NoneIs(CIRCLE, RED), True),
        (Related(CIRCLE, SQUARE, "above"), False),
    ],
)
def test_nothing_exists_in_an_empty_picture(claim: Claim, truth: bool) -> None:
    assert claim.truth(EMPTY) is truth


@pytest.mark.parametrize("shown", range(6))
def test_counts_are_exact(shown: int) -> None:
    things = [Thing("star", "black", 0.15, 0.1 + 0.18 * index, 0.5) for index in range(shown)]
    truths = [Count(STAR, number).truth(scene(*things)) for number in range(6)]
    assert truths == [number == shown for number in range(6)]


def test_an_in_between_size_is_never_used() -> None:
    middling = scene(Thing("circle", "red", 0.23, 0.5, 0.5))
    assert Exists(Kind("circle", None, "large")).truth(middling) is None
    assert Exists(Kind("square", None, "large")).truth(middling) is False


def test_sampled_scenes_keep_to_the_world() -> None:
    stream = scenes(3)
    for sampled in (next(stream) for _ in range(500)):
        assert len(sampled.things) <= 5
        sides = sorted((sampled.width, sampled.height))
        assert sides[0] >= MIN_SIDE
        assert sides[1] <= MAX_SIDE
        assert sides[1] <= MAX_ASPECT * (sides[0] + 1)
        for thing in sampled.things:
            assert thing.shape in SHAPES
            assert thing.colour in COLOURS
        for index, thing in enumerate(sampled.things):
            for other in sampled.things[:index]:
                mean = (sampled.width * sampled.height) ** 0.5
                apart = (
                    ((thing.x - other.x) * sampled.width) ** 2 + ((thing.y - other.y) * sampled.height) ** 2
                ) ** 0.5
                assert apart > (thing.diameter + other.diameter) / 2 * mean


def test_a_seed_always_gives_the_same_scenes() -> None:
    first, second, other = scenes(8), scenes(8), scenes(9)
    some = [next(first) for _ in range(5)]
    assert some == [next(second) for _ in range(5)]
    assert some != [next(other) for _ in range(5)]

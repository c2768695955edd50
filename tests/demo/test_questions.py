"""Open questions match the scene and are not asked where it is ambiguous."""

from __future__ import annotations

import random

import pytest

from lab.demo_training.folder import WORDS
from lab.demo_training.questions import QUESTIONS, ask
from lab.demo_training.world import Scene, Thing, scenes

RED, BLUE = Thing("circle", "red", 0.3, 0.2, 0.2), Thing("circle", "blue", 0.15, 0.5, 0.5)
STAR = Thing("star", "blue", 0.3, 0.85, 0.85)


def asked(category: str, *things: Thing) -> dict[str, str]:
    """Return every generated question of the category with its answer."""
    rng, scene = random.Random(3), Scene(300, 300, things, 1.0, 1)
    found = (ask(rng, scene, [category]) for _ in range(800))
    return {one[0]: one[1] for one in found if one is not None}


@pytest.mark.parametrize(
    ("category", "question", "answer"),
    [
        ("existence", "what shape is the red shape?", "circle"),
        ("colour", "what colour is the star?", "blue"),
        ("size", "is the star small or large?", "large"),
        ("place", "what colour is the circle on the left?", "red"),
        ("place", "what shape is the blue shape at the bottom?", "star"),
        ("place", "is the star left or right?", "right"),
        ("centre or corner", "is the star in the centre or in a corner?", "corner"),
        ("centre or corner", "is the blue circle in the centre or in a corner?", "centre"),
        ("count", "how many circles are there?", "two"),
        ("count", "how many shapes are there?", "three"),
        ("relation", "is the star above or below the red circle?", "below"),
        ("relation", "is the red circle left or right of the star?", "left"),
        ("every", "what colour is the circle that is not red?", "blue"),
        ("every", "what shape is the shape that is not a circle?", "star"),
    ],
)
def test_a_question_has_the_scene_s_answer(category: str, question: str, answer: str) -> None:
    # A place must be unambiguous for every referent, which excludes the thing in the middle.
    things = (
        (RED, STAR, Thing("circle", "blue", 0.15, 0.8, 0.2)) if category == "place" else (RED, BLUE, STAR)
    )
    assert asked(category, *things)[question] == answer


def test_ambiguous_questions_are_not_asked() -> None:
    assert "what colour is the circle?" not in asked("colour", RED, BLUE)
    assert "what shape is the blue shape?" not in asked("existence", BLUE, STAR)
    assert not any("the circle " in text for text in asked("relation", RED, BLUE, STAR))
    assert asked("place", Thing("circle", "red", 0.3, 0.5, 0.5)) == {}
    assert asked("relation", STAR) == {}
    assert asked("count") == {}
    two_others = (RED, BLUE, Thing("circle", "green", 0.2, 0.8, 0.2))
    assert not any("not red" in text for text in asked("every", *two_others))


def test_every_answer_is_a_word_that_training_knows() -> None:
    rng, stream = random.Random(1), scenes(4)
    for _ in range(500):
        found = ask(rng, next(stream), list(QUESTIONS))
        assert found is None or found[1] in WORDS

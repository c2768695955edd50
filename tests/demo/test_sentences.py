"""The grammar: correct answers, balanced wordings, every category."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from lab.demo_training.claims import Is
from lab.demo_training.sentences import CATEGORIES, KNOWN_WORDS, Sentence, Writer
from lab.demo_training.wordings import PROPOSERS
from lab.demo_training.world import Scene, Thing, scenes, select
from ofa.tokenizer import Tokenizer

from . import DEMO

STATEMENTS = [name for name in CATEGORIES if name != "maybe"]


def sample(category: str, count: int) -> list[Sentence]:
    writer, stream = Writer(random.Random(2), {category: 1.0}), scenes(2)
    found = (writer.write_about(next(stream), category) for _ in range(count))
    return [sentence for sentence in found if sentence is not None]


@pytest.mark.parametrize("category", STATEMENTS)
def test_yes_and_no_are_balanced_within_every_wording(category: str) -> None:
    tally: dict[str, Counter[str]] = {}
    for sentence in sample(category, 2500):
        tally.setdefault(sentence.wording, Counter())[sentence.answer] += 1
    assert tally
    for wording, counts in tally.items():
        assert abs(counts["yes"] - counts["no"]) <= 3, wording


def test_most_false_statements_about_every_have_an_example_and_an_exception() -> None:
    """ "All circles are red" with a red and a blue circle; else looking for a red circle would do."""
    rng, stream, mixed = random.Random(6), scenes(6, (2, 3, 4, 5)), []
    for _ in range(1000):
        scene = next(stream)
        claim, _, _ = PROPOSERS["every"](rng, scene, False, 3)
        assert isinstance(claim, Is)
        if claim.truth(scene) is False:
            mixed.append(any(claim.quality.matches(thing) for thing in select(scene, claim.kind) or []))
    assert sum(mixed) > 0.5 * len(mixed)


def test_number_words_do_not_reveal_the_answer() -> None:
    tally = Counter((sentence.wording.split()[-2], sentence.answer) for sentence in sample("count", 6000))
    for number in ("zero", "one", "two", "three", "four", "five"):
        yes, no = tally[number, "yes"], tally[number, "no"]
        assert yes > 30, number
        assert 0.8 < yes / no < 1.25, number


def test_maybe_is_always_maybe_and_about_what_is_shown() -> None:
    found = sample("maybe", 800)
    assert {sentence.answer for sentence in found} == {"maybe"}
    assert {"unseeable", "unknown word", "out of world"} == {sentence.wording for sentence in found}


def test_the_writer_says_what_the_scene_shows() -> None:
    lone = Scene(100, 100, (Thing("star", "blue", 0.4, 0.2, 0.5),), 1.0, 1)
    writer = Writer(random.Random(1), {"colour": 1.0}, slack=10**6)
    found = [writer.write_about(lone, "colour") for _ in range(300)]
    about_stars = [one for one in found if one is not None and "star" in one.text.lower()]
    assert about_stars
    for sentence in about_stars:
        if "small" not in sentence.text.lower():
            assert (sentence.answer == "yes") == ("blue" in sentence.text), sentence


def test_every_word_of_the_grammar_is_one_token() -> None:
    tokenizer = Tokenizer.from_folder(DEMO)
    pieces = {word: tokenizer.encode(" " + word) for word in (*KNOWN_WORDS, "yes", "no", "maybe")}
    assert [word for word, ids in pieces.items() if len(ids) != 1 and "'" not in word] == []

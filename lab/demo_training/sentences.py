"""Sentences about a scene: every wording the demo model learns, with Yes and No balanced within each.

A wording is drawn for a claim (claims.py) with the requested truth value. `Writer` counts true and false
sentences by wording and detail (a number word, a place, a relation) and rejects one that would unbalance
them, so that the text alone does not reveal the answer.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from lab.demo_training.claims import Exists, describe
from lab.demo_training.phrases import NUMBERS, PLURALS, a, noun, qualities, random_kind
from lab.demo_training.questions import ask
from lab.demo_training.unseeable import OUT_OF_WORLD, UNSEEABLE, unknown_sentence
from lab.demo_training.wordings import PROPOSERS
from lab.demo_training.world import COLOURS, SHAPES, Scene

CATEGORIES = (
    "existence",
    "colour",
    "count",
    "size",
    "place",
    "centre or corner",
    "relation",
    "negation",
    "every",
    "none",
    "conjunction",
    "maybe",
)


@dataclass(frozen=True)
class Sentence:
    """A sentence about a scene. `wording` names its template and detail; `answer` is yes, no, maybe, or an
    open question's one-word answer."""

    text: str
    answer: str
    category: str
    wording: str


def _maybe(rng: random.Random, scene: Scene) -> Sentence:
    """Return an undecidable sentence, about a shown thing (mostly) or outside this world."""
    roll = rng.random()
    if roll < 0.12:
        return Sentence(rng.choice(OUT_OF_WORLD), "maybe", "maybe", "out of world")
    if roll < 0.24:
        return Sentence(
            unknown_sentence(rng, lambda: noun(random_kind(rng, 2), rng)), "maybe", "maybe", "unknown word"
        )
    parts = rng.choice((1, 1, 2))
    thing = rng.choice(scene.things) if scene.things and rng.random() < 0.9 else None
    kind = describe(thing, **qualities(rng, parts)) if thing else random_kind(rng, parts)
    phrase = noun(kind, rng)
    text = rng.choice(UNSEEABLE).format(np=phrase, a_np=a(phrase))
    if rng.random() < 0.12 and text.startswith("the "):
        text = text.removeprefix("the ")
    return Sentence(text, "maybe", "maybe", "unseeable")


_FUNCTION_WORDS = """
    there is there's are a an the picture image of in i can see shows contains show does do
    not isn't no and but
    has have both or colour color coloured colored exactly count number shape shapes object objects one
    small large big on at left right top bottom side half upper lower centre center middle
    corner to above below
    under higher lower than all every each none what how many where
"""
#: Every word of the grammar; other words are split into pieces.
KNOWN_WORDS = frozenset(
    (*_FUNCTION_WORDS.split(), *SHAPES, *(PLURALS.get(s, s + "s") for s in SHAPES), *COLOURS, *NUMBERS)
)


def dress(text: str, rng: random.Random) -> str:
    """Vary punctuation and capitals: a full stop, an initial capital."""
    if rng.random() < 0.3 and not text.endswith("?"):
        text += "."
    return text[0].upper() + text[1:] if rng.random() < 0.3 else text


class Writer:
    """Writes sentences about scenes, with Yes and No balanced within every wording.

    Args:
        shares: relative share of each category; "question" stands for open questions.
        most: maximum number of qualities in an existence sentence ("large red circle" has three).
        topics: categories of open questions; all of `shares` unless given.
        slack: maximum difference between a wording's true and false sentences.
    """

    def __init__(
        self,
        rng: random.Random,
        shares: dict[str, float],
        slack: int = 3,
        most: int = 3,
        topics: Sequence[str] | None = None,
    ) -> None:
        self._rng = rng
        self._most = most
        self._slack = slack
        self._balance: defaultdict[str, int] = defaultdict(int)
        self._topics = tuple(topics if topics is not None else shares)
        self.shares = shares

    def write(self, scene: Scene) -> Sentence:
        """Return a sentence about the scene; tries other categories when one yields none."""
        names, weights = list(self.shares), list(self.shares.values())
        while True:
            sentence = self.write_about(scene, self._rng.choices(names, weights)[0])
            if sentence is not None:
                return sentence

    def write_about(self, scene: Scene, category: str, tries: int = 6) -> Sentence | None:
        """Return a sentence of that category, or None when none was found that keeps the balance."""
        rng = self._rng
        if category == "maybe":
            plain = _maybe(rng, scene)
            return Sentence(dress(plain.text, rng), plain.answer, plain.category, plain.wording)
        if category == "question":
            asked = ask(rng, scene, self._topics)
            return None if asked is None else Sentence(asked[0], asked[1], "question", asked[2])
        want = rng.random() < 0.5
        for _ in range(tries):
            claim, text, wording = PROPOSERS[category](rng, scene, want, self._most)
            truth = claim.truth(scene)
            if truth is None or truth != want or (isinstance(claim, Exists) and category == "conjunction"):
                continue
            key = f"{category}: {wording}"
            step = 1 if truth else -1
            if self._balance[key] * step >= self._slack:
                continue
            self._balance[key] += step
            return Sentence(dress(text, rng), "yes" if truth else "no", category, key)
        return None

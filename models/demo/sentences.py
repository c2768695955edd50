"""Plain English about a scene: every wording the demo model learns, with Yes and No balanced within each.

A wording is drawn for a claim (claims.py) that is true or false of the scene, as asked for. `Writer` keeps,
for every wording and its telling detail (a number word, a place, a relation), how many were true and how many
false, and refuses a sentence that would tip the balance: the words alone must not give the answer away.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.demo.claims import At, Both, Claim, Count, Exists, Is, NoneIs, Related, describe
from models.demo.unseeable import OUT_OF_WORLD, UNSEEABLE, unknown_sentence
from models.demo.world import COLOURS, PLACES, RELATIONS, SHAPES, SIZES, Kind, Scene, Thing, related, select

NUMBERS = ("zero", "one", "two", "three", "four", "five")
CATEGORIES = (
    "existence",
    "colour",
    "count",
    "size",
    "place",
    "relation",
    "negation",
    "all or none",
    "conjunction",
    "maybe",
)
_PLURALS = {"cross": "crosses"}
_SPELLED = {"large": ("large", "big"), "small": ("small",)}


@dataclass(frozen=True)
class Sentence:
    """A sentence about a scene. `wording` names its template and telling detail; `answer` is yes, no, maybe,
    or an open question's one-word answer."""

    text: str
    answer: str
    category: str
    wording: str


def noun(kind: Kind, rng: random.Random, plural: bool = False) -> str:
    """ "large red circle", "red shapes": the phrase without an article."""
    head = kind.shape or rng.choice(("shape", "shape", "object"))
    if plural:
        head = _PLURALS.get(head, head + "s")
    size = rng.choice(_SPELLED[kind.size]) if kind.size else None
    return " ".join(word for word in (size, kind.colour, head) if word)


def a(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


# ---------------------------------------------------------------- kinds worth asking about


def _random_kind(rng: random.Random, parts: int) -> Kind:
    """A kind with one quality or more, whatever the scene shows."""
    return describe(
        Thing(rng.choice(SHAPES), rng.choice(COLOURS), rng.choice((0.15, 0.35)), 0.5, 0.5),
        **_qualities(rng, parts),
    )


def _qualities(rng: random.Random, parts: int) -> dict[str, bool]:
    if parts == 1:
        return {"shape": True} if rng.random() < 0.75 else {"shape": False, "colour": True}
    if parts == 2:
        return {"colour": True} if rng.random() < 0.85 else {"size": True}
    return {"colour": True, "size": True}


def _near_miss(rng: random.Random, kind: Kind, scene: Scene) -> Kind:
    """The kind with one quality changed, preferably to one that another thing of the scene has."""
    part = rng.choice([name for name in ("shape", "colour", "size") if getattr(kind, name)])
    if part == "size":
        return Kind(kind.shape, kind.colour, "small" if kind.size == "large" else "large")
    choices: Sequence[str] = SHAPES if part == "shape" else COLOURS
    shown = [getattr(thing, part) for thing in scene.things if getattr(thing, part) != getattr(kind, part)]
    other = rng.choice(shown) if shown and rng.random() < 0.6 else rng.choice(choices)
    return Kind(other, kind.colour, kind.size) if part == "shape" else Kind(kind.shape, other, kind.size)


def _kind(rng: random.Random, scene: Scene, true: bool, parts: int) -> Kind:
    """A kind that fits a thing of the scene (`true`), or one that just misses it."""
    if not scene.things:
        return _random_kind(rng, parts)
    kind = describe(rng.choice(scene.things), **_qualities(rng, parts))
    if true or (kind == Kind()):
        return kind
    return _near_miss(rng, kind, scene) if rng.random() < 0.85 else _random_kind(rng, parts)


def _parts(rng: random.Random, most: int) -> int:
    return min(most, rng.choice((1, 2, 2, 2, 3)))


def _lone_kind(rng: random.Random, scene: Scene, true: bool, parts: int) -> Kind:
    """A kind for "the ...", usually of a thing that is the only one of it."""
    for _ in range(4):
        kind = _kind(rng, scene, true or rng.random() < 0.85, parts)
        found = select(scene, kind)
        if found is not None and (len(found) == 1 or rng.random() < 0.15):
            return kind
    return kind


# ---------------------------------------------------------------- wordings, one function a category


def _existence(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    kind = _kind(rng, scene, true, min(most, _parts(rng, 2 if rng.random() < 0.8 else 3)))
    claim, phrase = Exists(kind), noun(kind, rng)
    text = rng.choice(
        (
            f"there is {a(phrase)}",
            f"there is {a(phrase)}",
            f"there is {a(phrase)}",
            f"there's {a(phrase)}",
            f"there is {phrase}",
            f"{a(phrase)}",
            phrase,
            f"the picture shows {a(phrase)}",
            f"there is {a(phrase)} in the picture",
            f"i can see {a(phrase)}",
            f"the image contains {a(phrase)}",
            f"a picture of {a(phrase)}",
        )
    )
    return claim, text, text.replace(phrase, f"{bool(kind.shape)}{bool(kind.colour)}{kind.size}")


def _colour(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    kind = _lone_kind(rng, scene, True, 1)
    if kind.shape is None:
        kind = Kind(rng.choice(SHAPES))
    if rng.random() < 0.15:
        kind = Kind(kind.shape, None, rng.choice(SIZES))
    found = select(scene, kind)
    shown = [thing.colour for thing in scene.things]
    if found and true:
        colour = found[0].colour
    else:
        colour = rng.choice(shown) if shown and rng.random() < 0.6 else rng.choice(COLOURS)
    phrase = noun(kind, rng)
    word = rng.choice(("colour", "color"))
    text = rng.choice(
        (
            f"the {phrase} is {colour}",
            f"the {phrase} is {colour}",
            f"the {phrase} is {colour}",
            f"{phrase} is {colour}",
            f"the {word} of the {phrase} is {colour}",
            f"the {phrase} has the {word} {colour}",
            f"the {phrase} is {word}ed {colour}",
        )
    )
    return Is(kind, Kind(None, colour)), text, text.replace(phrase, "K" + str(kind.size)).replace(colour, "C")


def _count(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    number = rng.choice((0, 1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 5))
    roll = rng.random()
    if roll < 0.35:
        kind = Kind()
    elif scene.things and roll < 0.95:
        kind = describe(rng.choice(scene.things), **_qualities(rng, 1 if rng.random() < 0.75 else 2))
        if number == 0:
            kind = _near_miss(rng, kind, scene)
    else:
        kind = _random_kind(rng, 1)
    found = select(scene, kind)
    if found is not None and true:
        number = len(found)
    elif found is not None and rng.random() < 0.6:
        number = max(0, min(5, len(found) + rng.choice((-1, 1))))
    phrase = noun(kind, rng, plural=number != 1)
    word = NUMBERS[number] if rng.random() < 0.85 else str(number)
    verb = "is" if number == 1 else "are"
    text = rng.choice(
        (
            f"there {verb} {word} {phrase}",
            f"there {verb} {word} {phrase}",
            f"there {verb} exactly {word} {phrase}",
            f"the picture shows {word} {phrase}",
            f"i count {word} {phrase}",
            f"there {verb} {word} {phrase} in the picture",
            f"the number of {noun(kind, rng, plural=True)} is {word}",
        )
    )
    any_kind = kind == Kind()
    return Count(kind, number), text, f"{text.split(word)[0]} {NUMBERS[number]} {any_kind}"


def _size(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    kind = _lone_kind(rng, scene, True, 2 if rng.random() < 0.3 else 1)
    kind = Kind(kind.shape, kind.colour) if kind.shape or kind.colour else Kind(rng.choice(SHAPES))
    found = select(scene, kind)
    size = rng.choice(SIZES)
    if found and found[0].size:
        size = found[0].size if true else SIZES[found[0].size == "small"]
    phrase, word = noun(kind, rng), rng.choice(_SPELLED[size])
    if rng.random() < 0.35:
        kind = Kind(kind.shape, kind.colour, size)
        full = f"{word} {phrase}"
        text = rng.choice(
            (f"there is {a(full)}", f"there's {a(full)}", f"the picture shows {a(full)}", a(full))
        )
        return Exists(kind), text, text.replace(full, "K" + size)
    text = rng.choice(
        (f"the {phrase} is {word}",) * 3 + (f"{phrase} is {word}", f"the {phrase} is a {word} one")
    )
    return Is(kind, Kind(None, None, size)), text, text.replace(phrase, "K").replace(word, size)


_AT: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "in the left half", "on the left of the picture"),
    "right": ("on the right", "on the right side", "in the right half", "on the right of the picture"),
    "top": ("at the top", "in the top half", "in the upper half", "at the top of the picture"),
    "bottom": ("at the bottom", "in the bottom half", "in the lower half", "at the bottom of the picture"),
    "centre": ("in the centre", "in the center", "in the middle", "in the centre of the picture"),
    "corner": ("in a corner", "in the corner", "in a corner of the picture"),
}


def _place(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    place, parts = rng.choice(PLACES), 1 if rng.random() < 0.5 else 2
    where = rng.choice(_AT[place])
    if rng.random() < 0.4:
        kind = _kind(rng, scene, true or rng.random() < 0.8, parts)
        phrase = noun(kind, rng)
        text = rng.choice((f"there is {a(phrase)} {where}", f"there's {a(phrase)} {where}"))
        return At(kind, place, some=True), text, f"some {where}"
    kind = _lone_kind(rng, scene, true, parts)
    phrase = noun(kind, rng)
    text = rng.choice((f"the {phrase} is {where}", f"the {phrase} is {where}", f"{phrase} is {where}"))
    return At(kind, place), text, f"the {where}"


_BETWEEN: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "under", "lower than"),
}


def _relation(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    relation = rng.choice(RELATIONS)
    words = rng.choice(_BETWEEN[relation])
    parts = rng.choice((1, 1, 2))
    some = rng.random() < 0.25
    if len(scene.things) >= 2:
        pair = rng.sample(scene.things, 2)
        kinds = [describe(thing, **_qualities(rng, parts)) for thing in pair]
        if not true and rng.random() < 0.12:
            kinds[rng.randrange(2)] = _random_kind(rng, parts)
    else:
        kinds = [_random_kind(rng, parts), _random_kind(rng, parts)]
    first, second = noun(kinds[0], rng), noun(kinds[1], rng)
    if kinds[0] == kinds[1]:
        some = False  # "a star is left of a star" is true of any two stars; "the star" then names none
    if some:
        text = rng.choice((f"there is {a(first)} {words} {a(second)}", f"{a(first)} is {words} {a(second)}"))
    else:
        text = rng.choice((f"the {first} is {words} the {second}",) * 3 + (f"{first} is {words} {second}",))
    return Related(kinds[0], kinds[1], relation, some), text, f"{some} {words}"


def _negation(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    roll = rng.random()
    if roll < 0.6 or not scene.things:
        kind = _kind(rng, scene, not true, _parts(rng, 2))
        phrase, plural = noun(kind, rng), noun(kind, rng, plural=True)
        text = rng.choice(
            (
                f"there is no {phrase}",
                f"there is no {phrase}",
                f"there are no {plural}",
                f"there is not {a(phrase)}",
                f"there isn't {a(phrase)}",
                f"the picture does not show {a(phrase)}",
                f"the picture has no {phrase}",
            )
        )
        claim: Claim = Exists(kind, negated=True)
        return claim, text, text.replace(phrase, "K").replace(plural, "Ks") + str(_shape_of(kind))
    thing = rng.choice(scene.things)
    if roll < 0.85:
        kind = describe(thing)
        shown = [other.colour for other in scene.things if other.colour != thing.colour]
        other_colour = rng.choice(shown) if shown and rng.random() < 0.6 else rng.choice(COLOURS)
        colour = other_colour if true else thing.colour
        text = rng.choice((f"the {noun(kind, rng)} is not {colour}", f"the {noun(kind, rng)} isn't {colour}"))
        return Is(kind, Kind(None, colour), negated=True), text, "is not colour"
    kind, place = describe(thing, colour=rng.random() < 0.5), rng.choice(PLACES)
    text = f"the {noun(kind, rng)} is not {rng.choice(_AT[place])}"
    return At(kind, place, negated=True), text, f"is not {place}"


def _shape_of(kind: Kind) -> tuple[bool, bool]:
    return kind.shape is not None, kind.colour is not None


def _all_or_none(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    thing = (
        rng.choice(scene.things)
        if scene.things
        else Thing(rng.choice(SHAPES), rng.choice(COLOURS), 0.3, 0.5, 0.5)
    )
    by_colour = rng.random() < 0.65
    kind = (
        (Kind(thing.shape) if rng.random() < 0.7 else Kind())
        if by_colour
        else (Kind(None, thing.colour) if rng.random() < 0.4 else Kind())
    )
    quality = Kind(None, thing.colour) if by_colour else Kind(thing.shape)
    none = rng.random() < 0.4
    if true == none or rng.random() < 0.15:
        quality = _near_miss(rng, quality, scene)
    one, many = noun(kind, rng), noun(kind, rng, plural=True)
    single, group = (
        (quality.colour, quality.colour)
        if by_colour
        else (a(str(quality.shape)), noun(Kind(quality.shape), rng, plural=True))
    )
    if none:
        text = rng.choice(
            (f"none of the {many} is {single}", f"none of the {many} are {group}", f"no {one} is {single}")
        )
    else:
        text = rng.choice(
            (
                f"all {many} are {group}",
                f"all the {many} are {group}",
                f"every {one} is {single}",
                f"all of the {many} are {group}",
                f"each {one} is {single}",
            )
        )
    claim = NoneIs(kind, quality) if none else Is(kind, quality, each=True)
    return claim, text, f"{text.split()[0]} {_shape_of(kind)} {by_colour}"


def _conjunction(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    parts = rng.choice((1, 2, 2))
    but = rng.random() < 0.3
    first_true = true or rng.random() < 0.6
    second_true = (true or not first_true or rng.random() < 0.15) != but
    one, other = _kind(rng, scene, first_true, parts), _kind(rng, scene, second_true, parts)
    first, second = noun(one, rng), noun(other, rng)
    if one == other or first == second:
        return _existence(rng, scene, true, most)
    if but:
        text = rng.choice((f"there is {a(first)} but no {second}", f"there is {a(first)} and no {second}"))
    else:
        text = rng.choice(
            (
                f"there is {a(first)} and {a(second)}",
                f"there is {a(first)} and {a(second)}",
                f"there is {a(first)} and there is {a(second)}",
                f"there are both {a(first)} and {a(second)}",
                f"the picture shows {a(first)} and {a(second)}",
                f"{a(first)} and {a(second)}",
            )
        )
    wording = text.replace(first, "K").replace(second, "L")
    return Both(Exists(one), Exists(other, negated=but)), text, f"{wording} {parts}"


_PROPOSERS: dict[str, Callable[[random.Random, Scene, bool, int], tuple[Claim, str, str]]] = {
    "existence": _existence,
    "colour": _colour,
    "count": _count,
    "size": _size,
    "place": _place,
    "relation": _relation,
    "negation": _negation,
    "all or none": _all_or_none,
    "conjunction": _conjunction,
}


# ---------------------------------------------------------------- what no picture tells, and open questions


def _maybe(rng: random.Random, scene: Scene) -> Sentence:
    """A sentence that no picture can settle: about a shown thing (most), or outside this world altogether."""
    roll = rng.random()
    if roll < 0.12:
        return Sentence(rng.choice(OUT_OF_WORLD), "maybe", "maybe", "out of world")
    if roll < 0.24:
        return Sentence(
            unknown_sentence(rng, lambda: noun(_random_kind(rng, 2), rng)), "maybe", "maybe", "unknown word"
        )
    parts = rng.choice((1, 1, 2))
    thing = rng.choice(scene.things) if scene.things and rng.random() < 0.9 else None
    kind = describe(thing, **_qualities(rng, parts)) if thing else _random_kind(rng, parts)
    phrase = noun(kind, rng)
    text = rng.choice(UNSEEABLE).format(np=phrase, a_np=a(phrase))
    if rng.random() < 0.12 and text.startswith("the "):
        text = text.removeprefix("the ")
    return Sentence(text, "maybe", "maybe", "unseeable")


def _question(rng: random.Random, scene: Scene, categories: Sequence[str]) -> Sentence | None:
    """An open question with a one-word answer; only used to get training started."""
    if not scene.things:
        return None
    topic = rng.choice(
        [name for name in ("colour", "existence", "size", "place", "count", "relation") if name in categories]
    )
    if topic == "count":
        kind = (
            Kind()
            if rng.random() < 0.35
            else describe(rng.choice(scene.things), **_qualities(rng, rng.choice((1, 1, 2))))
        )
        found = select(scene, kind)
        if found is None:
            return None
        return Sentence(
            f"how many {noun(kind, rng, plural=True)} are there?", NUMBERS[len(found)], "question", "how many"
        )
    thing = rng.choice(scene.things)
    if topic == "relation":
        return _relation_question(rng, scene, thing)
    kind = describe(thing, colour=rng.random() < 0.3)
    if topic == "existence":
        kind = describe(thing, shape=False, colour=True)
    found = select(scene, kind)
    if found is None or len({(t.colour, t.shape, t.size) if topic != "place" else t for t in found}) != 1:
        return None
    if topic == "existence":
        return Sentence(f"what shape is the {noun(kind, rng)}?", thing.shape, "question", "what shape")
    if topic == "colour":
        return (
            Sentence(f"what colour is the {thing.shape}?", thing.colour, "question", "what colour")
            if (kind.colour is None)
            else None
        )
    if topic == "size":
        return (
            Sentence(f"is the {noun(kind, rng)} small or large?", thing.size, "question", "what size")
            if thing.size
            else None
        )
    sideways = rng.random() < 0.5
    offset = thing.x - 0.5 if sideways else thing.y - 0.5
    if abs(offset) < 0.06:
        return None
    answers = ("left", "right") if sideways else ("top", "bottom")
    return Sentence(
        f"is the {noun(kind, rng)} {answers[0]} or {answers[1]}?", answers[offset > 0], "question", "where"
    )


def _relation_question(rng: random.Random, scene: Scene, thing: Thing) -> Sentence | None:
    """ "What shape is left of the square?", when exactly one thing is."""
    kind, relation = describe(thing, colour=rng.random() < 0.5), rng.choice(RELATIONS)
    found = select(scene, kind)
    if found is None or len(found) != 1:
        return None
    hits = [other for other in scene.things if other is not thing]
    verdicts = [related(t, thing, relation) for t in hits]
    if None in verdicts or verdicts.count(True) != 1:
        return None
    hit = hits[verdicts.index(True)]
    asked = rng.choice(("shape", "colour"))
    words = rng.choice(_BETWEEN[relation])
    return Sentence(
        f"what {asked} is {words} the {noun(kind, rng)}?", getattr(hit, asked), "question", f"what {words}"
    )


_FUNCTION_WORDS = """
    there is there's are a an the picture image of in i can see shows contains show does do
    not isn't no and but
    has have both or colour color coloured colored exactly count number shape shapes object objects one
    small large big on at left right top bottom side half upper lower centre center middle
    corner to above below
    under higher lower than all every each none what how many where
"""
#: Every word the grammar itself uses; anything else reaches the network in pieces.
KNOWN_WORDS = frozenset(
    (*_FUNCTION_WORDS.split(), *SHAPES, *(_PLURALS.get(s, s + "s") for s in SHAPES), *COLOURS, *NUMBERS)
)


def dress(text: str, rng: random.Random) -> str:
    """Small liberties that people take: a full stop, an initial capital."""
    if rng.random() < 0.3 and not text.endswith("?"):
        text += "."
    return text[0].upper() + text[1:] if rng.random() < 0.3 else text


class Writer:
    """Writes sentences about scenes, Yes and No balanced within every wording.

    Args:
        shares: relative share of each category; "question" stands for open questions.
        most: the most qualities an existence sentence names ("large red circle" has three).
        slack: by how many a wording's true sentences may outnumber its false ones, and the reverse.
    """

    def __init__(self, rng: random.Random, shares: dict[str, float], slack: int = 3, most: int = 3) -> None:
        self._rng = rng
        self._most = most
        self._slack = slack
        self._balance: defaultdict[str, int] = defaultdict(int)
        self.shares = shares

    def write(self, scene: Scene) -> Sentence:
        """One sentence about the scene; tries other categories when one finds nothing to say about it."""
        names, weights = list(self.shares), list(self.shares.values())
        while True:
            sentence = self.write_about(scene, self._rng.choices(names, weights)[0])
            if sentence is not None:
                return sentence

    def write_about(self, scene: Scene, category: str, tries: int = 6) -> Sentence | None:
        """A sentence of that category about the scene, or None when none was found that keeps the balance."""
        rng = self._rng
        if category == "maybe":
            plain = _maybe(rng, scene)
            return Sentence(dress(plain.text, rng), plain.answer, plain.category, plain.wording)
        if category == "question":
            return _question(rng, scene, list(self.shares))
        want = rng.random() < 0.5
        for _ in range(tries):
            claim, text, wording = _PROPOSERS[category](rng, scene, want, self._most)
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

"""Statements by category: a claim about a scene, one of its wordings, and the wording's name.

Every function takes the random source, the scene, the requested truth value (the caller checks it), and the
maximum number of qualities in an existence sentence. The name holds the template and its detail.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from lab.demo_training.claims import At, Both, Claim, Count, Exists, Is, NoneIs, Related, describe
from lab.demo_training.phrases import (
    NUMBERS,
    SPELLED,
    a,
    lone_kind,
    near_miss,
    noun,
    pick_parts,
    qualities,
    random_kind,
    some_kind,
)
from lab.demo_training.world import (
    COLOURS,
    HALVES,
    RELATIONS,
    SHAPES,
    SIZES,
    SPOTS,
    Kind,
    Scene,
    Thing,
    select,
)


def _existence(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    kind = some_kind(rng, scene, true, min(most, pick_parts(rng, 2 if rng.random() < 0.8 else 3)))
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
    kind = lone_kind(rng, scene, True, 1)
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
        kind = describe(rng.choice(scene.things), **qualities(rng, 1 if rng.random() < 0.75 else 2))
        if number == 0:
            kind = near_miss(rng, kind, scene)
    else:
        kind = random_kind(rng, 1)
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
    kind = lone_kind(rng, scene, True, 2 if rng.random() < 0.3 else 1)
    kind = Kind(kind.shape, kind.colour) if kind.shape or kind.colour else Kind(rng.choice(SHAPES))
    found = select(scene, kind)
    size = rng.choice(SIZES)
    if found and found[0].size:
        size = found[0].size if true else SIZES[found[0].size == "small"]
    phrase, word = noun(kind, rng), rng.choice(SPELLED[size])
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


AT: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side", "in the left half", "on the left of the picture"),
    "right": ("on the right", "on the right side", "in the right half", "on the right of the picture"),
    "top": ("at the top", "in the top half", "in the upper half", "at the top of the picture"),
    "bottom": ("at the bottom", "in the bottom half", "in the lower half", "at the bottom of the picture"),
    "centre": ("in the centre", "in the center", "in the middle", "in the centre of the picture"),
    "corner": ("in a corner", "in the corner", "in a corner of the picture"),
}


def _place(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    return _at(rng, scene, true, rng.choice(HALVES))


def _spot(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    return _at(rng, scene, true, rng.choice(SPOTS))


def _at(rng: random.Random, scene: Scene, true: bool, place: str) -> tuple[Claim, str, str]:
    parts = 1 if rng.random() < 0.5 else 2
    where = rng.choice(AT[place])
    if rng.random() < 0.4:
        kind = some_kind(rng, scene, true or rng.random() < 0.8, parts)
        phrase = noun(kind, rng)
        text = rng.choice((f"there is {a(phrase)} {where}", f"there's {a(phrase)} {where}"))
        return At(kind, place, some=True), text, f"some {where}"
    kind = lone_kind(rng, scene, true, parts)
    phrase = noun(kind, rng)
    text = rng.choice((f"the {phrase} is {where}", f"the {phrase} is {where}", f"{phrase} is {where}"))
    return At(kind, place), text, f"the {where}"


BETWEEN: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "higher than"),
    "below": ("below", "under", "lower than"),
}


def _relation(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    relation = rng.choice(RELATIONS)
    words = rng.choice(BETWEEN[relation])
    parts = rng.choice((1, 1, 2))
    some = rng.random() < 0.25
    if len(scene.things) >= 2:
        pair = rng.sample(scene.things, 2)
        kinds = [describe(thing, **qualities(rng, parts)) for thing in pair]
        if not true and rng.random() < 0.12:
            kinds[rng.randrange(2)] = random_kind(rng, parts)
    else:
        kinds = [random_kind(rng, parts), random_kind(rng, parts)]
    first, second = noun(kinds[0], rng), noun(kinds[1], rng)
    if kinds[0] == kinds[1]:
        some = False  # "a star is left of a star" holds for any two stars, and "the star" is ambiguous
    if some:
        text = rng.choice((f"there is {a(first)} {words} {a(second)}", f"{a(first)} is {words} {a(second)}"))
    else:
        text = rng.choice((f"the {first} is {words} the {second}",) * 3 + (f"{first} is {words} {second}",))
    return Related(kinds[0], kinds[1], relation, some), text, f"{some} {words}"


def _negation(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    roll = rng.random()
    if roll < 0.6 or not scene.things:
        kind = some_kind(rng, scene, not true, pick_parts(rng, 2))
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
    kind, place = describe(thing, colour=rng.random() < 0.5), rng.choice(HALVES)
    text = f"the {noun(kind, rng)} is not {rng.choice(AT[place])}"
    return At(kind, place, negated=True), text, f"is not {place}"


def _shape_of(kind: Kind) -> tuple[bool, bool]:
    return kind.shape is not None, kind.colour is not None


def _group(rng: random.Random, scene: Scene, by_colour: bool, mixed: bool) -> tuple[Kind, Kind, bool]:
    """Return a kind, the colour or shape of one of its things, and whether its other things differ in it.

    Tries for kinds of several things, which differ (`mixed`) or not.
    """
    random_thing = Thing(rng.choice(SHAPES), rng.choice(COLOURS), 0.3, 0.5, 0.5)
    for _ in range(4):
        thing = rng.choice(scene.things or (random_thing,))
        if by_colour:
            kind = Kind(thing.shape) if rng.random() < 0.7 else Kind()
        else:
            kind = Kind(None, thing.colour) if rng.random() < 0.6 else Kind()
        quality = Kind(None, thing.colour) if by_colour else Kind(thing.shape)
        found = select(scene, kind) or []
        alike = all(quality.matches(one) for one in found)
        if len(found) > 1 and alike != mixed:
            break
    return kind, quality, not alike


def _every(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    """Most false "all circles are red" have a red circle and one of another colour: a model that looks only
    for a red circle would fail."""
    by_colour = rng.random() < 0.65
    kind, quality, mixed = _group(rng, scene, by_colour, not true)
    if rng.random() < 0.1 or (not true and (not mixed or rng.random() < 0.25)):
        quality = near_miss(rng, quality, scene)
    one, many, single, group = _plurals(rng, kind, quality)
    text = rng.choice(
        (
            f"all {many} are {group}",
            f"all the {many} are {group}",
            f"every {one} is {single}",
            f"all of the {many} are {group}",
            f"each {one} is {single}",
        )
    )
    return Is(kind, quality, each=True), text, f"{text.split()[0]} {_shape_of(kind)} {by_colour}"


def _none(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    by_colour = rng.random() < 0.65
    kind, quality, _ = _group(rng, scene, by_colour, rng.random() < 0.5)
    if true or rng.random() < 0.15:
        quality = near_miss(rng, quality, scene)
    one, many, single, group = _plurals(rng, kind, quality)
    text = rng.choice(
        (f"none of the {many} is {single}", f"none of the {many} are {group}", f"no {one} is {single}")
    )
    return NoneIs(kind, quality), text, f"{text.split()[0]} {_shape_of(kind)} {by_colour}"


def _plurals(rng: random.Random, kind: Kind, quality: Kind) -> tuple[str, str, str, str]:
    """Return the nouns for one and several, and the quality of one ("red", "a star") and of several."""
    one, many = noun(kind, rng), noun(kind, rng, plural=True)
    if quality.colour:
        return one, many, quality.colour, quality.colour
    return one, many, a(str(quality.shape)), noun(Kind(quality.shape), rng, plural=True)


def _conjunction(rng: random.Random, scene: Scene, true: bool, most: int) -> tuple[Claim, str, str]:
    parts = rng.choice((1, 2, 2))
    but = rng.random() < 0.3
    first_true = true or rng.random() < 0.6
    second_true = (true or not first_true or rng.random() < 0.15) != but
    one, other = some_kind(rng, scene, first_true, parts), some_kind(rng, scene, second_true, parts)
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


PROPOSERS: dict[str, Callable[[random.Random, Scene, bool, int], tuple[Claim, str, str]]] = {
    "existence": _existence,
    "colour": _colour,
    "count": _count,
    "size": _size,
    "place": _place,
    "centre or corner": _spot,
    "relation": _relation,
    "negation": _negation,
    "every": _every,
    "none": _none,
    "conjunction": _conjunction,
}

"""Noun phrases, and the choice of things in a scene to refer to."""

from __future__ import annotations

import random
from collections.abc import Sequence

from lab.demo_training.claims import describe
from lab.demo_training.world import COLOURS, SHAPES, Kind, Scene, Thing, select

NUMBERS = ("zero", "one", "two", "three", "four", "five")
PLURALS = {"cross": "crosses"}
SPELLED = {"large": ("large", "big"), "small": ("small",)}


def noun(kind: Kind, rng: random.Random, plural: bool = False) -> str:
    """ "large red circle", "red shapes": the phrase without an article."""
    head = kind.shape or rng.choice(("shape", "shape", "object"))
    if plural:
        head = PLURALS.get(head, head + "s")
    size = rng.choice(SPELLED[kind.size]) if kind.size else None
    return " ".join(word for word in (size, kind.colour, head) if word)


def a(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


def random_kind(rng: random.Random, parts: int) -> Kind:
    """Return a random kind with at least one quality."""
    return describe(
        Thing(rng.choice(SHAPES), rng.choice(COLOURS), rng.choice((0.15, 0.35)), 0.5, 0.5),
        **qualities(rng, parts),
    )


def qualities(rng: random.Random, parts: int) -> dict[str, bool]:
    if parts == 1:
        return {"shape": True} if rng.random() < 0.75 else {"shape": False, "colour": True}
    if parts == 2:
        return {"colour": True} if rng.random() < 0.85 else {"size": True}
    return {"colour": True, "size": True}


def near_miss(rng: random.Random, kind: Kind, scene: Scene) -> Kind:
    """Return the kind with one quality changed, preferably to that of another thing in the scene."""
    part = rng.choice([name for name in ("shape", "colour", "size") if getattr(kind, name)])
    if part == "size":
        return Kind(kind.shape, kind.colour, "small" if kind.size == "large" else "large")
    choices: Sequence[str] = SHAPES if part == "shape" else COLOURS
    shown = [getattr(thing, part) for thing in scene.things if getattr(thing, part) != getattr(kind, part)]
    other = rng.choice(shown) if shown and rng.random() < 0.6 else rng.choice(choices)
    return Kind(other, kind.colour, kind.size) if part == "shape" else Kind(kind.shape, other, kind.size)


def some_kind(rng: random.Random, scene: Scene, true: bool, parts: int) -> Kind:
    """Return a kind that matches a thing of the scene (`true`), or a near miss."""
    if not scene.things:
        return random_kind(rng, parts)
    kind = describe(rng.choice(scene.things), **qualities(rng, parts))
    if true or (kind == Kind()):
        return kind
    return near_miss(rng, kind, scene) if rng.random() < 0.85 else random_kind(rng, parts)


def pick_parts(rng: random.Random, most: int) -> int:
    return min(most, rng.choice((1, 2, 2, 2, 3)))


def lone_kind(rng: random.Random, scene: Scene, true: bool, parts: int) -> Kind:
    """Return a kind for "the ...", usually with a unique referent."""
    for _ in range(4):
        kind = some_kind(rng, scene, true or rng.random() < 0.85, parts)
        found = select(scene, kind)
        if found is not None and (len(found) == 1 or rng.random() < 0.15):
            return kind
    return kind

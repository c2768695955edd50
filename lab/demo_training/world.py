"""The demo model's world: scenes of coloured shapes, and which statements about them are true.

A `Scene` describes a picture; a renderer draws it (`render.py`, `second_renderer.py`, `third_renderer.py`),
a grammar describes it (`sentences.py`). Coordinates are fractions of the picture (x from left to right, y
from top to bottom), lengths are fractions of the picture's mean side sqrt(width * height).

Definitions of what plain English leaves open:

- small is a diameter below 0.20, large one above 0.27; an object in between is neither and never used.
- left/right/top/bottom are the picture's halves, by the object's centre; centres within 0.06 of the middle
  line are not used. "In the centre" is within 0.14 of the middle on both axes, and false from 0.22 on; "in a
  corner" is farther than 0.25 from the middle on both axes, and false when one is below 0.18.
- "left of", "above", ... compare the two centres along that axis; differences below 0.10 are not used.
- counts are exact: "there are two squares" is false with three.
- "the circle is blue" is false without a circle. With several circles it is used only when all or none are
  blue; the same holds for "the circle is on the left" and "the circle is not blue".
- "all circles are blue" requires at least one circle; "no circle is blue" is true without one.
- "the circle is left of the square" is used with at most one of each, and false when one is missing. "A
  circle is left of a square" is true for any such two.
- undecidable statements ("the circle is heavy") are Maybe, and so are sentences about things outside this
  world ("there is a dog", "a photo").
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

SHAPES = ("circle", "square", "triangle", "star", "cross")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange", "black", "white")
SIZES = ("small", "large")
MAX_OBJECTS = 5

SMALL_BELOW = 0.20
LARGE_ABOVE = 0.27
HALF_MARGIN = 0.06
CENTRE_INSIDE = 0.14
CENTRE_OUTSIDE = 0.22
CORNER_INSIDE = 0.25
CORNER_OUTSIDE = 0.18
RELATION_MARGIN = 0.10

HALVES = ("left", "right", "top", "bottom")
SPOTS = ("centre", "corner")
RELATIONS = ("left of", "right of", "above", "below")

MIN_SIDE = 64
MAX_SIDE = 1600
MAX_ASPECT = 2.5


@dataclass(frozen=True)
class Thing:
    """One shape. `diameter` is that of its circumscribed circle, as a fraction of the picture's mean side."""

    shape: str
    colour: str
    diameter: float
    x: float
    y: float
    angle: float = 0.0

    @property
    def size(self) -> str | None:
        if self.diameter < SMALL_BELOW:
            return "small"
        return "large" if self.diameter > LARGE_ABOVE else None


@dataclass(frozen=True)
class Scene:
    """The content of a picture; `backdrop` is the background's mean lightness in [0, 1], `seed` fixes the
    drawing style."""

    width: int
    height: int
    things: tuple[Thing, ...]
    backdrop: float
    seed: int


def at_place(thing: Thing, place: str) -> bool | None:
    """Return whether the thing is at the place; None when borderline."""
    dx, dy = thing.x - 0.5, thing.y - 0.5
    if place in ("left", "right", "top", "bottom"):
        along = dx if place in ("left", "right") else dy
        if abs(along) < HALF_MARGIN:
            return None
        return (along < 0) == (place in ("left", "top"))
    near, far = min(abs(dx), abs(dy)), max(abs(dx), abs(dy))
    if place == "centre":
        if far <= CENTRE_INSIDE:
            return True
        return False if far >= CENTRE_OUTSIDE else None
    if near >= CORNER_INSIDE:
        return True
    return False if near <= CORNER_OUTSIDE else None


def related(first: Thing, second: Thing, relation: str) -> bool | None:
    """Return whether `first` stands in the relation to `second`; None when borderline."""
    along = second.x - first.x if relation in ("left of", "right of") else second.y - first.y
    if abs(along) < RELATION_MARGIN:
        return None
    return (along > 0) == (relation in ("left of", "above"))


@dataclass(frozen=True)
class SceneStyle:
    """Sampling ranges. Each renderer's scenes have their own sizes, places and picture formats."""

    small: tuple[float, float] = (0.11, 0.19)
    large: tuple[float, float] = (0.28, 0.42)
    lone_large: tuple[float, float] = (0.28, 0.62)
    medium_share: float = 0.12
    angle: float = 14.0
    star_angle: float = 36.0  # a star may have any rotation
    gap: float = 1.08
    snap: float = 0.0
    big_picture_share: float = 0.10
    least_longest: float = 96.0  # pixels
    crowded: float = 0.0  # share of pictures with the things near one point


PRIMARY = SceneStyle()
WIDE = SceneStyle(
    small=(0.09, 0.195),
    large=(0.275, 0.46),
    gap=0.9,
    big_picture_share=0.20,
    least_longest=MIN_SIDE,
    crowded=0.5,
)
SECOND = SceneStyle(
    small=(0.12, 0.185),
    large=(0.29, 0.38),
    lone_large=(0.30, 0.55),
    medium_share=0.0,
    angle=10.0,
    star_angle=10.0,
    gap=1.2,
    snap=0.05,
    big_picture_share=0.15,
)
THIRD = SceneStyle(
    small=(0.10, 0.196),
    large=(0.274, 0.44),
    lone_large=(0.274, 0.66),
    medium_share=0.08,
    gap=0.92,
    big_picture_share=0.25,
    least_longest=MIN_SIDE,
    crowded=0.5,
)


def picture_size(rng: random.Random, style: SceneStyle) -> tuple[int, int]:
    """Return width and height from 64 to 1600 pixels, at most 2.5:1, mostly small."""
    big = rng.random() < style.big_picture_share
    longest = rng.uniform(320, MAX_SIDE) if big else rng.uniform(style.least_longest, 320)
    aspect = 1.0 if rng.random() < 0.3 else math.exp(rng.uniform(0, math.log(MAX_ASPECT)))
    long_side, short_side = int(longest), max(MIN_SIDE, int(longest / aspect))
    return (long_side, short_side) if rng.random() < 0.5 else (short_side, long_side)


def _diameter(rng: random.Random, size: str, lone: bool, style: SceneStyle) -> float:
    if size == "small":
        return rng.uniform(*style.small)
    if size == "medium":
        return rng.uniform(SMALL_BELOW, LARGE_ABOVE)
    return rng.uniform(*(style.lone_large if lone else style.large))


def _place(
    rng: random.Random, size: tuple[int, int], diameters: list[float], style: SceneStyle
) -> list[tuple[float, float]] | None:
    """Return centres (fractions), or None after too many tries.

    The distance of two centres exceeds `style.gap` times the sum of the circumscribed circles' radii.
    """
    width, height = size
    mean = math.sqrt(width * height)
    found: list[tuple[float, float, float]] = []
    crowded = style.crowded > 0 and rng.random() < style.crowded
    focus = (rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height) if crowded else None
    for diameter in sorted(diameters, reverse=True):
        radius = diameter * mean / 2
        left, top = radius + 1, radius + 1
        if left > width - left or top > height - top:
            return None
        for _ in range(40):
            x, y = rng.uniform(left, width - left), rng.uniform(top, height - top)
            if focus:
                x = min(max(rng.gauss(focus[0], 0.2 * width), left), width - left)
                y = min(max(rng.gauss(focus[1], 0.2 * height), top), height - top)
            if style.snap:
                x = min(max(round(x / width / style.snap) * style.snap * width, left), width - left)
                y = min(max(round(y / height / style.snap) * style.snap * height, top), height - top)
            if all(math.hypot(x - ox, y - oy) > style.gap * (radius + other) for ox, oy, other in found):
                found.append((x, y, radius))
                break
        else:
            return None
    return [(x / width, y / height) for x, y, _ in found]


def _backdrop(rng: random.Random, colours: set[str]) -> float:
    """Return a background lightness that contrasts with every given colour."""
    low = 0.32 if "black" in colours else 0.0
    high = 0.68 if "white" in colours else 1.0
    choice = rng.random()
    if choice < 0.30 and high == 1.0:
        return 1.0 if rng.random() < 0.5 else rng.uniform(0.92, 1.0)
    if choice < 0.45 and low == 0.0:
        return 0.0 if rng.random() < 0.4 else rng.uniform(0.0, 0.15)
    return rng.uniform(low, high)


def _thing(
    rng: random.Random,
    shape: str,
    colour: str,
    diameter: float,
    centre: tuple[float, float],
    style: SceneStyle,
) -> Thing:
    most = style.star_angle if shape == "star" else style.angle
    return Thing(shape, colour, diameter, *centre, rng.uniform(-most, most))


def sample_scene(
    rng: random.Random, counts: tuple[int, ...] = (0, 1, 2, 3, 4, 5), style: SceneStyle = PRIMARY
) -> Scene:
    """Return a random scene with one of the given object counts (repeat a count to make it likelier).

    Shapes, colours and sizes are drawn from small palettes, so that repeated shapes, shared colours and
    near misses (the right colour on the wrong shape) are common.
    """
    while True:
        count = rng.choice(counts)
        size = picture_size(rng, style)
        shapes = rng.sample(SHAPES, rng.choice((1, 2, 2, 3, 3, 4, 5)))
        colours = rng.sample(COLOURS, rng.choice((1, 2, 2, 3, 3, 4, 6)))
        kinds = ("small", "large") if rng.random() > 0.3 else (rng.choice(SIZES),)
        diameters = []
        for _ in range(count):
            kind = "medium" if rng.random() < style.medium_share else rng.choice(kinds)
            diameters.append(_diameter(rng, kind, count <= 2, style))
        centres = _place(rng, size, diameters, style)
        if centres is None:
            continue
        things = tuple(
            _thing(rng, rng.choice(shapes), rng.choice(colours), diameter, centre, style)
            for diameter, centre in zip(sorted(diameters, reverse=True), centres, strict=True)
        )
        backdrop = _backdrop(rng, {thing.colour for thing in things})
        return Scene(size[0], size[1], things, backdrop, rng.getrandbits(32))


@dataclass(frozen=True)
class Kind:
    """A description of things, such as "large red circle"; None matches any value ("shape" for any shape)."""

    shape: str | None = None
    colour: str | None = None
    size: str | None = None

    def matches(self, thing: Thing) -> bool | None:
        """Return whether the thing is of this kind; None when it depends on an in-between size."""
        if (self.shape and thing.shape != self.shape) or (self.colour and thing.colour != self.colour):
            return False
        if self.size is None:
            return True
        return None if thing.size is None else thing.size == self.size


def select(scene: Scene, kind: Kind) -> list[Thing] | None:
    """Return the scene's things of that kind, or None when an in-between size makes it ambiguous."""
    verdicts = [kind.matches(thing) for thing in scene.things]
    if any(verdict is None for verdict in verdicts):
        return None
    return [thing for thing, verdict in zip(scene.things, verdicts, strict=True) if verdict]


def scenes(
    seed: int, counts: tuple[int, ...] = (0, 1, 2, 3, 4, 5), style: SceneStyle = PRIMARY
) -> Iterator[Scene]:
    """Yield an endless, reproducible stream of scenes."""
    rng = random.Random(seed)
    while True:
        yield sample_scene(rng, counts, style)

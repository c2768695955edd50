"""Seeded pictures and sentences, the same on every machine: for measurements and for the check of int8."""

from __future__ import annotations

import random

import numpy as np
from PIL import Image, ImageDraw

from ofa.pair import Pair

#: Typical lengths, and some of up to three times that.
SENTENCES = (
    "a dog",
    "two men are talking",
    "a woman in a red coat is waiting for the bus",
    "nobody is here",
    "the children are playing football in the park behind the old school",
    "a street at night",
    "an old man sells fruit from a cart while his customers are looking at the apples",
    "it is raining",
    "a cat sleeps on a chair",
    "three people sit at a table",
    "the photograph shows a kitchen with a window above the sink and a lamp over the table",
    "somebody is running",
)
_WORDS = (
    "a two three red blue green old young large small man woman child dog cat horse bicycle car street "
    "house tree table chair window beach mountain river is are sits stands runs sleeps plays holds watches "
    "near behind under above beside on in with without quietly together alone today"
)
_COLOURS = ("red", "green", "blue", "yellow", "black", "purple")
_SHAPES = ("circle", "square", "triangle")
_SIZE = (320, 240)  # of the pictures of pairs, in pixels


def photograph(seed: int, width: int = 640, height: int = 480) -> Image.Image:
    """Return an RGB picture of coarse and fine patches with grain: smooth and sharp areas, as in a photo."""
    generator = np.random.default_rng(abs(seed))
    picture = np.zeros((height, width, 3), dtype=np.float32)
    for patch, weight in ((160, 0.5), (40, 0.3), (8, 0.15)):
        cells = generator.integers(0, 256, (-(-height // patch), -(-width // patch), 3), dtype=np.uint8)
        size = (cells.shape[1] * patch, cells.shape[0] * patch)
        smooth = Image.fromarray(cells).resize(size, Image.Resampling.BICUBIC).crop((0, 0, width, height))
        picture += weight * np.asarray(smooth, dtype=np.float32)
    picture += generator.normal(0.0, 4.0, picture.shape)
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def drawing(dice: random.Random) -> Image.Image:
    """Return a white RGB picture with one to four coloured shapes."""
    picture = Image.new("RGB", _SIZE, "white")
    draw = ImageDraw.Draw(picture)
    for _ in range(dice.randint(1, 4)):
        colour, shape, side = dice.choice(_COLOURS), dice.choice(_SHAPES), dice.randint(30, 90)
        left, top = dice.randint(0, _SIZE[0] - side), dice.randint(0, _SIZE[1] - side)
        box = (left, top, left + side, top + side)
        if shape == "circle":
            draw.ellipse(box, fill=colour)
        elif shape == "square":
            draw.rectangle(box, fill=colour)
        else:
            corners = [(left, top + side), (left + side, top + side), (left + side / 2, top)]
            draw.polygon(corners, fill=colour)
    return picture


def sentence(number: int) -> str:
    """Return one of SENTENCES, cyclically."""
    return SENTENCES[number % len(SENTENCES)]


def random_sentence(dice: random.Random) -> str:
    """Return 2 to 16 random words."""
    return " ".join(dice.choices(_WORDS.split(), k=dice.randint(2, 16)))


def random_pairs(count: int, seed: int, per_picture: int = 4) -> list[Pair]:
    """Return random words about random pictures, some with a premise."""
    dice = random.Random(seed)
    pairs: list[Pair] = []
    while len(pairs) < count:
        picture = photograph(dice.getrandbits(32), *_SIZE)
        for _ in range(min(per_picture, count - len(pairs))):
            premise = random_sentence(dice) if dice.random() < 0.2 else None
            pairs.append(Pair(picture, random_sentence(dice), premise))
    return pairs


def mixed_pairs(count: int, seed: int, per_picture: int = 8) -> list[Pair]:
    """Return half :func:`random_pairs`, half sentences about drawings, which a trained model can judge."""
    dice = random.Random(seed)
    pairs = random_pairs(count // 2, seed, per_picture)
    while len(pairs) < count:
        picture = drawing(dice)
        for _ in range(min(per_picture, count - len(pairs))):
            colour, shape, number = (
                dice.choice(_COLOURS),
                dice.choice(_SHAPES),
                dice.choice(("a", "one", "two")),
            )
            plural = "s" if number == "two" else ""
            pairs.append(Pair(picture, f"{number} {colour} {shape}{plural}"))
    return pairs

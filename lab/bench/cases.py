"""Seeded test inputs: pictures with the statistics of photographs, sentences of many lengths."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
from PIL import Image

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


def write_photograph(path: Path, seed: int, width: int = 640, height: int = 480) -> Path:
    """Write :func:`photograph` as a JPEG file and return its path."""
    photograph(seed, width, height).save(path, quality=90)
    return path


def sentence(number: int) -> str:
    """Return one of SENTENCES, cyclically."""
    return SENTENCES[number % len(SENTENCES)]


def random_sentence(dice: random.Random) -> str:
    """Return 2 to 16 random words."""
    return " ".join(dice.choices(_WORDS.split(), k=dice.randint(2, 16)))


def mixed(count: int, seed: int = 0) -> list[Pair]:
    """Return pairs that all differ in picture and sentence."""
    return [Pair(photograph(seed + index), sentence(index)) for index in range(count)]


def random_pairs(count: int, seed: int, per_picture: int = 4) -> list[Pair]:
    """Return random words about random pictures, some with a premise."""
    dice = random.Random(seed)
    pairs: list[Pair] = []
    while len(pairs) < count:
        picture = photograph(dice.getrandbits(32), 320, 240)
        for _ in range(min(per_picture, count - len(pairs))):
            premise = random_sentence(dice) if dice.random() < 0.2 else None
            pairs.append(Pair(picture, random_sentence(dice), premise))
    return pairs

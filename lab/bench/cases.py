"""Test inputs as files and as pairs that all differ; :mod:`ofa.samples` makes the pictures and sentences."""

from __future__ import annotations

from pathlib import Path

from ofa.pair import Pair
from ofa.samples import photograph as photograph
from ofa.samples import random_pairs as random_pairs
from ofa.samples import sentence as sentence


def write_photograph(path: Path, seed: int, width: int = 640, height: int = 480) -> Path:
    """Write :func:`photograph` as a JPEG file and return its path."""
    photograph(seed, width, height).save(path, quality=90)
    return path


def mixed(count: int, seed: int = 0) -> list[Pair]:
    """Return pairs that all differ in picture and sentence."""
    return [Pair(photograph(seed + index), sentence(index)) for index in range(count)]

"""Make a model folder's int8 weights and compare their answers with fp32.

This takes minutes and gigabytes at the large size; the service does it in a process of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from ofa import processor
from ofa.config import TaskConfig
from ofa.int8_file import Check, Int8File
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.precision import MARGINS, SMALL_LEAD, best_dtype, moved
from ofa.precision import margin as margin_of
from ofa.quantize import int8_state
from ofa.samples import mixed_pairs, sentence

PAIRS = 200
_RANGING = 8  # further pairs, which show the range of the activations
_SEED = 20_261_126


def make(folder: Path, cache: Path, pairs: int = PAIRS, threads: int = 0) -> Check | None:
    """Write the int8 weights of ``folder`` and their check on ``pairs`` pairs. None if the weights changed
    meanwhile.

    Args:
        threads: CPU threads; 0 leaves them to torch.

    Raises:
        OFAError: the folder cannot be used.
        OSError: a file cannot be read or written.
    """
    if threads:
        torch.set_num_threads(threads)
    file = Int8File(folder, cache)
    exact = EntailmentModel.load(folder, "cpu", torch.float32, cache)
    state = quantized(exact)
    low = EntailmentModel.load(folder, "cpu", best_dtype("cpu"), cache).in_int8(state)
    check = compare(exact, low, fitting(mixed_pairs(pairs, _SEED + 1), exact.task))
    return check if file.write_state(state, more={"check": asdict(check)}) else None


def quantized(exact: EntailmentModel) -> dict[str, Tensor]:
    """The int8 weights of a model in fp32, ranged on a few pairs."""
    return int8_state(exact, fitting(mixed_pairs(_RANGING, _SEED, per_picture=2), exact.task))


def compare(exact: EntailmentModel, low: EntailmentModel, pairs: list[Pair]) -> Check:
    """Judge ``pairs`` with both. Pairs that follow each other about one picture share its features."""
    margin, changed, small, largest = MARGINS["int8"], 0, 0, 0.0
    for _, group in itertools.groupby(pairs, key=lambda pair: id(pair.image)):
        together = list(group)
        for right, found in zip(exact.judge(together), low.judge(together), strict=True):
            one, lead = moved(right, found), margin_of(right)
            if one is None or math.isnan(lead):  # int8 would be of no use, or nothing is known of it
                largest = math.inf
                continue
            changed += one.differs and one.lead >= margin
            if min(one.lead, lead) < SMALL_LEAD:
                small, largest = small + 1, max(largest, one.error)
    return Check(len(pairs), changed, small, largest, margin, processor.kind())


def fitting(pairs: Iterable[Pair], task: TaskConfig) -> list[Pair]:
    """Add a premise where the configured prompt needs one, drop it where it takes none."""
    if task.prompt_slots is None:
        return list(pairs)
    if task.prompt_slots == 1:
        return [replace(pair, premise=None) for pair in pairs]
    return [replace(pair, premise=pair.premise or sentence(index)) for index, pair in enumerate(pairs)]

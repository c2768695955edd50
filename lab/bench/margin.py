"""Measure how far low precision moves a lead: the figures behind the precision guard's margin.

A lead is the difference of two answers' log-probabilities. A verdict differs from fp32's only where the error
of a lead exceeds the lead, so a margin above every error of a small lead is safe. Random weights give small
leads.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

import ofa.precision
from lab.bench.cases import random_pairs, sentence
from lab.bench.machine import name_of
from lab.bench.sides import Subject
from lab.parity.folders import SMALL, write_folder
from ofa.config import TaskConfig
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.precision import MARGINS

FORMATS: Final = (torch.bfloat16, torch.float16)
CANDIDATES: Final = (0.02, 0.05, 0.1, 0.25, 0.5)
SEEDS: Final = 3  # seeds of the weights per small configuration
PAIRS: Final = 100  # pairs per seed
PUBLISHED_PAIRS: Final = {"small": 100, "folder": 24}  # pairs of the two published sizes, which take longest
SMALL_LEAD: Final = 1.0  # larger leads stay larger whatever the error
BATCH: Final = 8
SEED: Final = 20_261_123
_LEAST: Final = 1e-300
Scores = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Moved:
    """One pair in low precision against fp32.

    Attributes:
        lead: best minus second answer in low precision.
        error: largest excess of a lead over the same lead in fp32.
        differs: whether fp32 has another best answer.
    """

    lead: float
    error: float
    differs: bool


def moved(exact: Scores, low: Scores) -> Moved | None:
    """Return None where scores are not finite: the guard then computes in fp32 whatever its margin."""
    lead = ofa.precision.margin(low)
    if math.isnan(lead):
        return None
    best = max(low, key=lambda name: low[name])
    errors = [_lead(low, best, name) - _lead(exact, best, name) for name in low if name != best]
    return Moved(lead, max(errors), best != max(exact, key=lambda name: exact[name]))


def _lead(scores: Scores, first: str, second: str) -> float:
    return math.log(max(scores[first], _LEAST)) - math.log(max(scores[second], _LEAST))


def margin(subject: Subject) -> dict[str, Any]:
    """Measure every format that has a margin, over every configuration."""
    found: dict[torch.dtype, dict[str, list[Moved | None]]] = {dtype: {} for dtype in FORMATS}
    for name, folder, pairs in _configurations(subject):
        exact = answers(folder, subject.device, torch.float32, pairs)
        for dtype, by_name in found.items():
            low = answers(folder, subject.device, dtype, pairs)
            by_name.setdefault(name, []).extend(map(moved, exact, low))
    formats = {
        name_of(dtype): summed_up(by_name, MARGINS[name_of(dtype)]) for dtype, by_name in found.items()
    }
    return {"small_lead": SMALL_LEAD, "formats": formats}


def summed_up(by_name: Mapping[str, Sequence[Moved | None]], guard: float) -> dict[str, Any]:
    """Return one number format's figures with the margin ``guard``, by configuration and in all."""
    seen = [one for ones in by_name.values() for one in ones]
    return {
        "margin": guard,
        "recomputed": _recomputed(seen),
        "configurations": {name: _summary(ones) for name, ones in by_name.items()},
        "all": _summary(seen),
    }


def _configurations(subject: Subject) -> Iterator[tuple[str, Path, list[Pair]]]:
    """Yield name, folder and questions: small configurations with several seeds, then published sizes."""
    seeds, count = (1, subject.pairs) if subject.quick else (SEEDS, PAIRS)
    for name, spec in list(SMALL.items())[: 2 if subject.quick else None]:
        for turn in range(seeds):
            folder = subject.scratch / "margin" / f"{name}-{turn}"
            write_folder(folder, replace(spec, seed=spec.seed + 1000 * turn))
            yield name, folder, random_pairs(count, SEED + turn)
    if not subject.quick:
        for attribute, count in PUBLISHED_PAIRS.items():
            folder = getattr(subject, attribute)
            yield folder.name, folder, random_pairs(count, SEED)


def answers(folder: Path, device: str, dtype: torch.dtype, pairs: Sequence[Pair]) -> list[dict[str, float]]:
    """Load a folder's model and return its scores for ``pairs``."""
    model = EntailmentModel.load(folder, device, dtype)
    asked = [_fitting(pair, index, model.task) for index, pair in enumerate(pairs)]
    batches = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]
    return [scores for batch in batches for scores in model.judge(batch)]


def _fitting(pair: Pair, index: int, task: TaskConfig) -> Pair:
    """Add a premise where the configured prompt has two slots, drop it where it has one."""
    if task.prompt_slots is None:
        return pair
    return replace(pair, premise=(pair.premise or sentence(index)) if task.prompt_slots == 2 else None)


def _summary(seen: Sequence[Moved | None]) -> dict[str, Any]:
    finite = [one for one in seen if one is not None]
    return {
        "pairs": len(seen),
        "not_finite": len(seen) - len(finite),
        "largest_error": _largest([one.error for one in finite]),
        "largest_error_of_small_leads": _largest([one.error for one in finite if one.lead < SMALL_LEAD]),
        "small_leads": sum(one.lead < SMALL_LEAD for one in finite),
        "differing": sum(one.differs for one in finite),
        "largest_differing_lead": _largest([one.lead for one in finite if one.differs]),
    }


def _largest(values: Sequence[float]) -> float:
    return round(max(values, default=0.0), 4)


def _recomputed(seen: Sequence[Moved | None]) -> dict[str, float]:
    """Return the share of requests that each candidate margin would recompute."""
    return {
        str(one): round(sum(pair is None or pair.lead < one for pair in seen) / len(seen), 4)
        for one in CANDIDATES
    }

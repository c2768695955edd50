"""Measure how far low precision moves a lead: the figures behind the precision guard's margin.

A lead is the difference of two answers' log-probabilities. A verdict differs from fp32's only where the error
of a lead exceeds the lead, so a margin above every error of a small lead is safe. Random weights give small
leads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from lab.bench.cases import random_pairs
from lab.bench.sides import Subject, load
from lab.parity.folders import SMALL, write_folder
from ofa import int8
from ofa.int8_check import fitting
from ofa.pair import Pair
from ofa.precision import MARGINS, SMALL_LEAD, Moved, moved

FORMATS: Final = ("bf16", "fp16", "int8")
CANDIDATES: Final = (0.02, 0.05, 0.1, 0.25, 0.5)
SEEDS: Final = 3  # seeds of the weights per small configuration
PAIRS: Final = 100  # pairs per seed
PUBLISHED_PAIRS: Final = {"small": 100, "folder": 24}  # pairs of the two published sizes, which take longest
BATCH: Final = 8
SEED: Final = 20_261_123


def margin(subject: Subject) -> dict[str, Any]:
    """Measure every format that has a margin, over every configuration."""
    computes_int8 = subject.device == "cpu" and int8.supported()
    formats = [one for one in FORMATS if one != "int8" or computes_int8]
    found: dict[str, dict[str, list[Moved | None]]] = {one: {} for one in formats}
    for name, folder, pairs in _configurations(subject):
        exact = answers(folder, subject.device, "fp32", pairs)
        for one, by_name in found.items():
            low = answers(folder, subject.device, one, pairs)
            by_name.setdefault(name, []).extend(map(moved, exact, low))
    summaries = {one: summed_up(by_name, MARGINS[one]) for one, by_name in found.items()}
    return {"small_lead": SMALL_LEAD, "formats": summaries}


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


def answers(folder: Path, device: str, number_format: str, pairs: Sequence[Pair]) -> list[dict[str, float]]:
    """Load a folder's model and return its scores for ``pairs``."""
    model = load(folder, device, number_format)
    asked = fitting(pairs, model.task)
    batches = [asked[start : start + BATCH] for start in range(0, len(asked), BATCH)]
    return [scores for batch in batches for scores in model.judge(batch)]


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

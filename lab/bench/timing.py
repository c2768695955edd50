"""Comparable timings: sides alternate in one run and are summed up by their median."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

#: A measured call: takes the number of the round, so that all sides get the same question; returns seconds.
Side = Callable[[int], float]


@dataclass(frozen=True, slots=True)
class Spread:
    """Repeated measurements in seconds."""

    seconds: Sequence[float]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def p95(self) -> float:
        """The 95th percentile; with fewer than 20 measurements, the largest."""
        return sorted(self.seconds)[max(0, -(-95 * len(self.seconds) // 100) - 1)]

    def as_dict(self) -> dict[str, Any]:
        return {
            "p50": round(self.median, 5),
            "p95": round(self.p95, 5),
            "least": round(min(self.seconds), 5),
            "runs": len(self.seconds),
        }


def timed(call: Callable[[], object], device: str = "cpu") -> float:
    """Return the seconds of one call, including its work on ``device``."""
    synchronize(device)
    began = time.perf_counter()
    call()
    synchronize(device)
    return time.perf_counter() - began


def synchronize(device: str) -> None:
    """Wait until the device has finished."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def alternate(
    sides: Mapping[str, Side], rounds: int, *, warm: int = 1, often: Mapping[str, int] | None = None
) -> dict[str, Spread]:
    """Measure all sides round by round, in alternating order, so that drift of the machine favours no side.

    Args:
        warm: uncounted rounds before.
        often: calls of a side per round; 1 unless given.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(-warm, rounds):
        names = list(sides) if turn % 2 else list(sides)[::-1]
        for name in names:
            for repeat in range((often or {}).get(name, 1) if turn >= 0 else 1):
                spent = sides[name](turn * 31 + repeat)
                if turn >= 0:
                    seconds[name].append(spent)
    return {name: Spread(values) for name, values in seconds.items()}


def bounds(values: Sequence[float]) -> tuple[float, float]:
    """Return a distribution-free 95 % confidence interval of the median."""
    ranked = sorted(values)
    skipped = max(0, int(len(ranked) / 2 - 0.98 * len(ranked) ** 0.5))
    return ranked[skipped], ranked[-1 - skipped]


def ratio(slow: float, fast: float) -> float:
    """Return the speed-up, to two decimals."""
    return round(slow / fast, 2) if fast > 0 else float("inf")

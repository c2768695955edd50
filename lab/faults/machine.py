"""Describe the machine of a measurement and its load by other processes."""

from __future__ import annotations

import os
import platform
import statistics
import time
from importlib.metadata import version
from pathlib import Path

import psutil

LOOK_SECONDS = 0.5


def described() -> str:
    """Return processor, memory, versions and the UTC date."""
    names = [
        line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")
    ]
    gib = psutil.virtual_memory().total / 2**30
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return (
        f"{os.cpu_count()} CPUs ({names[0] if names else platform.machine()}), {gib:.0f} GiB, "
        f"Python {platform.python_version()}, torch {version('torch')}, demo model, {day}."
    )


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []


class Busy:
    """CPU use by other processes, sampled while nothing of the suite runs."""

    def __init__(self) -> None:
        self._shares: list[float] = []

    def sample(self) -> None:
        self._shares.append(psutil.cpu_percent(LOOK_SECONDS))

    def summary(self) -> str:
        if not self._shares:
            return ""
        low, high = min(self._shares), max(self._shares)
        middle = statistics.median(self._shares)
        quiet = "a quiet machine" if middle < 10 else "a busy machine, so the times are upper bounds"
        return (
            f"Other processes used {low:.0f} to {high:.0f} % of the CPUs before each fault (median "
            f"{middle:.0f} %): {quiet}."
        )

"""How long a request will take, by what is known when it comes: learnt from the logs, and off unless it was.

``latency.json`` in the run folder holds two forests of small regression trees, one for what is expected and
one for the least that is likely, as plain numbers. Both correct the moving average, so that what they learnt
under one load does little harm under another. Reading it runs no code, whoever wrote it, and what is not
a forest is refused. ``python -m doctor train-latency`` writes it, and only if it beats the moving
average on requests it has not seen. Trees are walked here in plain Python, in some tens of microseconds.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

LATENCY_FILE: Final = "latency.json"
VERSION: Final = 1
MOST_BYTES: Final = 4 << 20
LONGEST: Final = 3600.0  # seconds; what a forest says beyond that is no forecast
LEAST: Final = 0.001
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arrival:
    """What is known of a request when it is about to wait, in the order of a tree's features: how many are
    ``ahead``, the moving average of the seconds one takes, the last computation's as a multiple of that, its
    characters, its picture's megapixels, and 1.0 on a GPU."""

    ahead: float
    recent: float
    trend: float
    chars: float
    megapixels: float
    gpu: float

    @property
    def average(self) -> float:
        """The seconds that the moving average makes of it: those ahead, and itself."""
        return max(LEAST, (self.ahead + 1) * self.recent)


FEATURES: Final = tuple(Arrival.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class Tree:
    """A binary tree in arrays. Node n asks whether feature[n] is at most threshold[n] and goes to left[n] or
    right[n], which are larger than n; a leaf has feature -1 and a value."""

    feature: Sequence[int]
    threshold: Sequence[float]
    left: Sequence[int]
    right: Sequence[int]
    value: Sequence[float]

    def at(self, features: Sequence[float]) -> float:
        node = 0
        while (feature := self.feature[node]) >= 0:
            below = features[feature] <= self.threshold[node]
            node = self.left[node] if below else self.right[node]
        return self.value[node]


@dataclass(frozen=True, slots=True)
class Forest:
    """What the moving average has to be multiplied by: its logarithm is a sum of trees over a base."""

    base: float
    trees: Sequence[Tree]

    def seconds(self, arrival: Arrival) -> float:
        features = astuple(arrival)
        logarithm = math.log(arrival.average) + self.base + sum(tree.at(features) for tree in self.trees)
        return math.exp(min(logarithm, math.log(LONGEST)))


@dataclass(frozen=True, slots=True)
class Forecast:
    """``expected`` is as often too long as too short; ``least`` is undercut by one request in ten. ``chars``
    and ``megapixels`` are those of the median request it was trained with."""

    expected: Forest
    least: Forest
    chars: float
    megapixels: float


def load(run_dir: Path) -> Forecast | None:
    """The forecast kept beside the logs; None if there is none, or none that can be believed."""
    path = run_dir / LATENCY_FILE
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError("too large")
        forecast = parse(json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        _log.warning("LATENCY_MODEL | ERROR=%s | the moving average is used", type(error).__name__)
        return None
    _log.info("LATENCY_MODEL | TREES=%d", len(forecast.expected.trees))
    return forecast


def parse(told: Any) -> Forecast:
    """The forecast in a JSON object. Raises ValueError for anything else."""
    try:
        if told["version"] != VERSION or tuple(told["features"]) != FEATURES:
            raise ValueError("made for another version")
        return Forecast(
            _forest(told["expected"]),
            _forest(told["least"]),
            _number(told["chars"]),
            _number(told["megapixels"]),
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError("no forecast") from error


def as_json(forecast: Forecast, **more: object) -> str:
    """What ``parse`` reads; ``more`` is kept for people."""

    def forest(one: Forest) -> Mapping[str, object]:
        names = Tree.__dataclass_fields__
        return {"base": one.base, "trees": [{n: list(getattr(t, n)) for n in names} for t in one.trees]}

    told = {
        "version": VERSION,
        "features": FEATURES,
        **more,
        "chars": forecast.chars,
        "megapixels": forecast.megapixels,
        "expected": forest(forecast.expected),
        "least": forest(forecast.least),
    }
    return json.dumps(told) + "\n"


def _forest(told: Mapping[str, Any]) -> Forest:
    return Forest(_number(told["base"]), [_tree(one) for one in told["trees"]])


def _tree(told: Mapping[str, Any]) -> Tree:
    feature, left, right = ([int(n) for n in told[name]] for name in ("feature", "left", "right"))
    threshold, value = ([_number(n) for n in told[name]] for name in ("threshold", "value"))
    size = len(feature)
    if not size or {len(left), len(right), len(threshold), len(value)} != {size}:
        raise ValueError("arrays of different lengths")
    for node, asked in enumerate(feature):
        # Children lie behind their parents, so that every walk comes to an end.
        inner = asked >= 0
        if asked >= len(FEATURES) or (inner and not (node < left[node] < size and node < right[node] < size)):
            raise ValueError("not a tree")
    return Tree(feature, threshold, left, right, value)


def _number(told: object) -> float:
    if isinstance(told, bool) or not isinstance(told, int | float) or not math.isfinite(told):
        raise ValueError("not a number")
    return float(told)

"""Trains the forecast of a request's duration from the logs, and says whether it is worth having.

Gradient-boosted trees of scikit-learn, which is needed here alone: what it learns is written as plain numbers
(service.inference.latency). The last third of the requests, or another folder's, are held out; unless their
absolute error is at least a tenth smaller than that of the moving average, nothing is written.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Final

from doctor.reading import Asked, Records
from service.inference.latency import LATENCY_FILE, Arrival, Forecast, Forest, Tree, as_json

LEAST_REQUESTS: Final = 200
HELD_OUT: Final = 3  # every third part, the last one
BETTER: Final = 0.9  # of the moving average's error, at most
KEEP: Final = 0.8  # of the moving average, a request: as the engine's
QUANTILES: Final = (0.5, 0.1)


class TooFew(Exception):
    """Too few requests, or no scikit-learn: says which."""


@dataclass(frozen=True, slots=True)
class Example:
    """One request: what was known when it came, and the seconds that it waited and was computed."""

    arrival: Arrival
    seconds: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Mean absolute errors in seconds on the held-out requests."""

    trained: int
    held_out: int
    forecast: float
    average: float
    kept: bool

    def __str__(self) -> str:
        verdict = "kept" if self.kept else "not kept: it is no better, and the moving average stays"
        return (
            f"trained with {self.trained} requests, tried on {self.held_out} others\n"
            f"mean absolute error: forecast {self.forecast:.3f} s, moving average {self.average:.3f} s\n"
            f"{LATENCY_FILE}: {verdict}"
        )


def train(records: Records, held_out: Records | None = None) -> Outcome:
    """Trains with ``records``; writes latency.json into their folder if that is worth it, and removes an
    older one if it is not. Raises TooFew."""
    learnt = examples(records)
    tried = examples(held_out) if held_out is not None else learnt[-(len(learnt) // HELD_OUT) :]
    if held_out is None:
        learnt = learnt[: -len(tried)] if tried else learnt
    if len(learnt) < LEAST_REQUESTS or len(tried) < LEAST_REQUESTS // HELD_OUT:
        raise TooFew(
            f"{len(learnt)} requests to learn from and {len(tried)} to try it on are too few: "
            f"{LEAST_REQUESTS} and {LEAST_REQUESTS // HELD_OUT} are needed."
        )
    forecast = fit(learnt)
    error = fmean(abs(forecast.expected.seconds(one.arrival) - one.seconds) for one in tried)
    average = fmean(abs(one.arrival.average - one.seconds) for one in tried)
    kept = error <= BETTER * average
    _write(records.folder / LATENCY_FILE, forecast if kept else None, len(learnt), error, average)
    return Outcome(len(learnt), len(tried), error, average, kept)


def examples(records: Records) -> list[Example]:
    """Users' requests that were computed, each with what its log says was known when it came."""
    ended = {id(one.line): one for one in records.asked}
    known: dict[str, tuple[float, float]] = {}
    found: list[Example] = []
    recent = last = None
    for line in records.app:
        name = line.message.split(" | ", 2)[1:2]
        if line.kind == "REQUEST_START" and recent is not None and last is not None:
            known[name[0]] = (recent, last)
        one = ended.get(id(line))
        if one is None or one.waited is None or one.computed is None:
            continue
        if (then := known.pop(name[0], None)) is not None and (made := _example(one, *then)) is not None:
            found.append(made)
        spent = one.computed / max(1, one.batch)
        recent = spent if recent is None else KEEP * recent + (1 - KEEP) * spent
        last = one.computed
    return found


def _example(one: Asked, recent: float, last: float) -> Example | None:
    if one.reason not in (None, "timeout") or None in (one.ahead, one.chars, one.pixels):
        return None
    arrival = Arrival(
        ahead=float(one.ahead or 0),
        recent=recent,
        trend=last / recent if recent else 1.0,
        chars=float(one.chars or 0),
        megapixels=(one.pixels or 0) / 1e6,
        gpu=float(one.device.startswith("cuda")),
    )
    return Example(arrival, max(0.001, (one.waited or 0.0) + (one.computed or 0.0)))


def fit(learnt: Sequence[Example]) -> Forecast:
    """Trees of depth 2 for the logarithm of what the average has to be multiplied by: few and shallow ones,
    for much of a duration is chance."""
    try:
        from sklearn.ensemble import GradientBoostingRegressor
    except ImportError as error:
        raise TooFew("scikit-learn is missing: pip install -r requirements-latency.txt") from error
    features = [astuple(one.arrival) for one in learnt]
    target = [math.log(one.seconds / one.arrival.average) for one in learnt]
    forests = []
    for quantile in QUANTILES:
        model = GradientBoostingRegressor(
            loss="quantile", alpha=quantile, n_estimators=60, max_depth=2, learning_rate=0.08,
            min_samples_leaf=20, subsample=0.7, random_state=0,
        )  # fmt: skip
        forests.append(_forest(model.fit(features, target)))
    expected, least = forests
    return Forecast(
        expected,
        least,
        chars=median(one.arrival.chars for one in learnt),
        megapixels=median(one.arrival.megapixels for one in learnt),
    )


def _forest(model: Any) -> Forest:
    """scikit-learn's trees as plain numbers, their values with the learning rate in them."""
    base = float(model.init_.constant_[0][0])
    return Forest(base, [_tree(estimator.tree_, model.learning_rate) for (estimator,) in model.estimators_])


def _tree(tree: Any, rate: float) -> Tree:
    leaves = tree.children_left < 0
    return Tree(
        feature=[-1 if leaf else int(one) for leaf, one in zip(leaves, tree.feature, strict=True)],
        # scikit-learn compares 32-bit features; its thresholds lie halfway between two of them.
        threshold=[0.0 if leaf else float(one) for leaf, one in zip(leaves, tree.threshold, strict=True)],
        left=[int(one) for one in tree.children_left],
        right=[int(one) for one in tree.children_right],
        value=[rate * float(one) for one in tree.value[:, 0, 0]],
    )


def _write(path: Path, forecast: Forecast | None, trained: int, error: float, average: float) -> None:
    if forecast is None:
        path.unlink(missing_ok=True)
        return
    told = {"trained_with": trained, "error_seconds": round(error, 4), "average_seconds": round(average, 4)}
    part = path.with_name(f".{path.name}.part")
    part.write_text(as_json(forecast, **told), encoding="utf-8")
    part.replace(path)

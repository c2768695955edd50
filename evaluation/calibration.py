"""Fit a temperature and two thresholds to labelled verdicts, and check them on pairs kept back."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from evaluation.figures import (
    Array,
    calibration_error,
    negative_log_likelihood,
    normalised,
    proportion,
)
from service.contract.calibration import TEMPERATURES, Calibration
from service.contract.request import LABELS

RESAMPLES: Final = 1000
NEVER: Final = 1.0  # a threshold that no verdict reaches in practice
_ONE_SIDED_95: Final = 1.6449  # standard deviations
_SMALLEST: Final = 1e-300


@dataclass(frozen=True, slots=True)
class Sample:
    """Judged pairs: the picture of each, its correct label as a position in LABELS, the raw scores."""

    pictures: Sequence[str]
    truth: Array
    scores: Array

    def part(self, chosen: Array) -> Sample:
        pictures = [picture for picture, keep in zip(self.pictures, chosen, strict=True) if keep]
        return Sample(pictures, self.truth[chosen], self.scores[chosen])


def split(sample: Sample, held_out: float) -> tuple[Sample, Sample]:
    """Return the pairs to fit with and those held out, about the share ``held_out``. All pairs of a picture
    are on one side, which depends on the picture's name alone."""
    back = np.array([_fraction(picture) < held_out for picture in sample.pictures])
    return sample.part(~back), sample.part(back)


def _fraction(name: str) -> float:
    """Return a fixed number in [0, 1) for a name."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4]) / 2**32


def fit(sample: Sample, accept_risk: float, review_risk: float, weights_sha256: str) -> Calibration:
    """Fit the temperature with the least negative log-likelihood, then the thresholds of its scores.

    Args:
        accept_risk: highest share of errors among the verdicts from the accept threshold up.
        review_risk: the same for the review threshold.
    """
    logs = np.log(np.maximum(normalised(sample.scores), _SMALLEST))
    rows = np.arange(len(sample.truth))

    def loss(log_temperature: float) -> float:
        return -float(log_softmax(logs / np.exp(log_temperature), axis=1)[rows, sample.truth].mean())

    best = minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded")
    raw = Calibration(float(np.exp(best.x)), NEVER, NEVER, weights_sha256)
    scores = applied(raw, sample.scores)
    confidence, wrong = scores.max(axis=1), scores.argmax(axis=1) != sample.truth
    accept = threshold(confidence, wrong, accept_risk)
    review = min(accept, threshold(confidence, wrong, review_risk))
    return Calibration(raw.temperature, accept, review, weights_sha256)


def applied(calibration: Calibration, scores: Array) -> Array:
    """Return the scores that the service would show."""
    rows = (calibration.calibrated(dict(zip(LABELS, row, strict=True))) for row in scores.tolist())
    return np.array([[row[label] for label in LABELS] for row in rows])


def threshold(confidence: Array, wrong: Array, risk: float) -> float:
    """Return the lowest confidence from which the share of errors is at most ``risk``, with 95 % confidence
    (upper limit of a one-sided Wilson interval); NEVER if these pairs cannot show that."""
    values, block, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    kept = np.cumsum(sizes)
    share = np.cumsum(np.bincount(block, weights=wrong)) / kept
    squared = _ONE_SIDED_95**2
    spread = _ONE_SIDED_95 * np.sqrt(share * (1 - share) / kept + squared / (4 * kept**2))
    upper = (share + squared / (2 * kept) + spread) / (1 + squared / kept)
    possible = np.flatnonzero(upper <= risk)
    return float(-values[possible[-1]]) if len(possible) else NEVER


def check(sample: Sample, calibration: Calibration) -> dict[str, Any]:
    """Return the figures of held-out pairs before and after, and what the thresholds do with them."""
    before, after = normalised(sample.scores), applied(calibration, sample.scores)
    decisions = np.array([calibration.decide(dict(zip(LABELS, row, strict=True))) for row in after.tolist()])
    right = after.argmax(axis=1) == sample.truth
    ece = [calibration_error(scores.max(axis=1), right) for scores in (before, after)]
    return {
        "nll": _both(*(negative_log_likelihood(sample.truth, scores) for scores in (before, after))),
        "ece": _both(*ece),
        "ece_change": {
            "value": ece[1] - ece[0],
            **_interval(sample.pictures, before.max(axis=1), after.max(axis=1), right),
        },
        "decisions": {
            name: {
                "share": float((decisions == name).mean()),
                "error": proportion(int((~right[decisions == name]).sum()), int((decisions == name).sum()))
                if (decisions == name).any()
                else None,
            }
            for name in ("accept", "review", "reject")
        },
    }


def improves(checked: dict[str, Any]) -> bool:
    """Whether the negative log-likelihood falls and the calibration error does not clearly rise: the 95 %
    interval of its change reaches down to zero."""
    return bool(checked["nll"]["after"] < checked["nll"]["before"] and checked["ece_change"]["low"] <= 0.0)


def _interval(pictures: Sequence[str], before: Array, after: Array, right: Array) -> dict[str, float]:
    """Return the 95 % interval of the change of the calibration error, by a bootstrap over pictures."""
    _, group = np.unique(pictures, return_inverse=True)
    members = [np.flatnonzero(group == number) for number in range(group.max() + 1)]
    draw = np.random.default_rng(0)
    changes = []
    for _ in range(RESAMPLES):
        chosen = np.concatenate([members[i] for i in draw.integers(len(members), size=len(members))])
        hits = right[chosen]
        changes.append(calibration_error(after[chosen], hits) - calibration_error(before[chosen], hits))
    low, high = np.quantile(changes, (0.025, 0.975))
    return {"low": float(low), "high": float(high)}


def _both(before: float, after: float) -> dict[str, float]:
    return {"before": before, "after": after}

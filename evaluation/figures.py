"""The figures of judged pairs: accuracy, errors by class, calibration, and risk against coverage.

Needs requirements-evaluation.txt: scikit-learn, and scipy with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from sklearn.metrics import (
    brier_score_loss,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
)

from service.contract.request import LABELS

Array = npt.NDArray[Any]
BINS: Final = 15  # of the calibration error, as in the literature
_CURVE_POINTS: Final = 100


def of_verdicts(gold: Sequence[str], scores: Array) -> dict[str, Any]:
    """Return the figures of three-way verdicts.

    Args:
        gold: the correct label of each pair, one of LABELS.
        scores: (pairs, 3), probabilities in the order of LABELS.
    """
    scores = normalised(scores)
    truth = np.array([LABELS.index(label) for label in gold])
    guess = scores.argmax(axis=1)
    confidence, right = scores.max(axis=1), guess == truth
    counts = np.bincount(truth, minlength=len(LABELS))
    return {
        "pairs": len(truth),
        "right": int(right.sum()),
        "accuracy": proportion(int(right.sum()), len(truth)),
        "majority": {"label": LABELS[counts.argmax()], "accuracy": float(counts.max() / len(truth))},
        "classes": _classes(truth, guess),
        "confusion": _confusion(truth, guess),
        "nll": negative_log_likelihood(truth, scores),
        "brier": float(brier_score_loss(truth, scores, labels=range(len(LABELS)), scale_by_half=False)),
        "ece": calibration_error(confidence, right),
        "ece_adaptive": calibration_error(confidence, right, adaptive=True),
        "reliability": _reliability(confidence, right),
        **_risk_coverage(confidence, right),
    }


def of_pairwise(right_yes: Array, wrong_yes: Array) -> dict[str, Any]:
    """Return the figures of pairwise verdicts: P(Yes) of the right and of the wrong caption. A tie is an
    error."""
    wins = int((right_yes > wrong_yes).sum())
    return {
        "pairs": len(right_yes),
        "right": wins,
        "ties": int((right_yes == wrong_yes).sum()),
        "accuracy": proportion(wins, len(right_yes)),
        "majority": {"label": "either caption", "accuracy": 0.5},
        "mean_difference": float((right_yes - wrong_yes).mean()),
    }


def proportion(successes: int, trials: int) -> dict[str, float]:
    """Return the share of successes with its 95 % interval (Wilson)."""
    interval = binomtest(successes, trials).proportion_ci(0.95, method="wilson")
    return {"value": successes / trials, "low": float(interval.low), "high": float(interval.high)}


def normalised(scores: Array) -> Array:
    """Return the rows in double precision, each with the sum 1."""
    double: Array = np.array(scores, dtype=np.float64)
    double /= double.sum(axis=1, keepdims=True)
    return double


def negative_log_likelihood(truth: Array, scores: Array) -> float:
    """Return the mean -log of the correct label's probability, which counts as at least 2e-16."""
    return float(log_loss(truth, scores, labels=range(len(LABELS))))


def calibration_error(confidence: Array, right: Array, *, adaptive: bool = False) -> float:
    """Return the expected calibration error: the mean distance between confidence and accuracy over BINS
    bins of equal width or, if ``adaptive``, of equally many pairs."""
    if adaptive:
        parts = [part for part in np.array_split(np.argsort(confidence, kind="stable"), BINS) if len(part)]
    else:
        bins = _bins(confidence)
        parts = [np.flatnonzero(bins == number) for number in np.unique(bins)]
    gaps = [len(part) * abs(confidence[part].mean() - right[part].mean()) for part in parts]
    return float(sum(gaps) / len(confidence))


def _bins(confidence: Array) -> Array:
    """Return each confidence's bin. A bin includes its upper edge."""
    number: Array = np.ceil(confidence * BINS).astype(int) - 1
    return number.clip(0, BINS - 1)


def _reliability(confidence: Array, right: Array) -> list[dict[str, float]]:
    bins = _bins(confidence)
    return [
        {
            "from": number / BINS,
            "to": (number + 1) / BINS,
            "pairs": int((bins == number).sum()),
            "confidence": float(confidence[bins == number].mean()),
            "accuracy": float(right[bins == number].mean()),
        }
        for number in np.unique(bins).tolist()
    ]


def _risk_coverage(confidence: Array, right: Array) -> dict[str, Any]:
    """Return the share of errors among the most confident pairs for each coverage, and its mean (AURC).

    Pairs of equal confidence enter together; in between, their errors count as evenly spread.
    """
    _, block, sizes = np.unique(-confidence, return_inverse=True, return_counts=True)
    errors = np.bincount(block, weights=~right)
    kept = np.arange(1, len(confidence) + 1)
    wrong = np.interp(kept, np.cumsum([0, *sizes]), np.cumsum([0, *errors]))
    risk = wrong / kept
    shown = np.unique(np.linspace(0, len(kept) - 1, min(_CURVE_POINTS, len(kept))).round().astype(int))
    points = [[float(kept[i] / len(kept)), float(risk[i])] for i in shown]
    return {"aurc": float(risk.mean()), "risk_coverage": points}


def _classes(truth: Array, guess: Array) -> dict[str, dict[str, float | int | None]]:
    """Return precision, recall and F1 by class; None where the class never occurs or is never predicted."""
    figures = precision_recall_fscore_support(
        truth, guess, labels=range(len(LABELS)), average=None, zero_division=np.nan
    )
    return {
        label: {
            "pairs": int(figures[3][index]),
            "predicted": int((guess == index).sum()),
            **{
                name: None if np.isnan(values[index]) else float(values[index])
                for name, values in zip(("precision", "recall", "f1"), figures, strict=False)
            },
        }
        for index, label in enumerate(LABELS)
    }


def _confusion(truth: Array, guess: Array) -> dict[str, dict[str, int]]:
    """Return the number of pairs by correct label, then by verdict."""
    matrix = confusion_matrix(truth, guess, labels=range(len(LABELS)))
    return {
        label: dict(zip(LABELS, (int(count) for count in row), strict=True))
        for label, row in zip(LABELS, matrix, strict=True)
    }

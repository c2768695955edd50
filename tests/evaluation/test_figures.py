"""Figures against values computed by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from evaluation import figures

YES, NO, MAYBE = [0.8, 0.1, 0.1], [0.2, 0.7, 0.1], [0.0, 0.4, 0.6]


@pytest.fixture(scope="module")
def found() -> dict:
    """Four pairs, three right: the last one is taken for Maybe."""
    return figures.of_verdicts(["Yes", "No", "Maybe", "No"], np.array([YES, NO, MAYBE, MAYBE]))


def test_accuracy_has_wilson_s_interval(found: dict) -> None:
    assert found["accuracy"] == pytest.approx({"value": 0.75, "low": 0.3006, "high": 0.9544}, abs=1e-4)
    assert (found["pairs"], found["right"]) == (4, 3)


def test_an_interval_of_no_error_is_not_empty() -> None:
    z = 1.959964
    assert figures.proportion(10, 10)["low"] == pytest.approx(10 / (10 + z * z), abs=1e-6)


def test_the_majority_baseline_is_the_most_frequent_label(found: dict) -> None:
    assert found["majority"] == {"label": "No", "accuracy": 0.5}


def test_classes_have_precision_recall_and_f1(found: dict) -> None:
    no, maybe = found["classes"]["No"], found["classes"]["Maybe"]
    assert (no["precision"], no["recall"], no["f1"]) == pytest.approx((1.0, 0.5, 2 / 3))
    assert (maybe["precision"], maybe["recall"], maybe["f1"]) == pytest.approx((0.5, 1.0, 2 / 3))
    assert found["confusion"]["No"] == {"Yes": 0, "No": 1, "Maybe": 1}


def test_a_class_that_is_never_predicted_has_no_precision() -> None:
    classes = figures.of_verdicts(["Yes", "No"], np.array([YES, YES]))["classes"]
    assert classes["No"]["precision"] is None
    assert classes["No"]["recall"] == 0.0
    assert classes["Maybe"]["recall"] is None


def test_likelihood_and_brier_score(found: dict) -> None:
    assert found["nll"] == pytest.approx(-sum(map(math.log, (0.8, 0.7, 0.6, 0.4))) / 4)
    squares = [0.04 + 0.01 + 0.01, 0.04 + 0.09 + 0.01, 0.16 + 0.16, 0.36 + 0.36]
    assert found["brier"] == pytest.approx(sum(squares) / 4)


def test_calibration_error_is_the_mean_gap_of_the_bins(found: dict) -> None:
    # 0.8 and 0.7 are right and alone in their bins; the two of 0.6 are right once.
    assert found["ece"] == pytest.approx((0.2 + 0.3 + 2 * 0.1) / 4)
    bins = [(round(one["to"] * figures.BINS), one["pairs"]) for one in found["reliability"]]
    assert bins == [(9, 2), (11, 1), (12, 1)]


def test_adaptive_bins_hold_equally_many_pairs() -> None:
    confidence = np.array([0.9] * 15 + [0.6] * 15)
    right = np.array([True] * 15 + [False] * 15)
    # Two pairs a bin; the middle one holds one of each kind.
    expected = (7 * 2 * 0.6 + 2 * abs(0.75 - 0.5) + 7 * 2 * 0.1) / 30
    assert figures.calibration_error(confidence, right, adaptive=True) == pytest.approx(expected)


def test_risk_grows_with_coverage(found: dict) -> None:
    # Most confident first: right, right, then the two of 0.6, one of them wrong: half an error each.
    assert [point[1] for point in found["risk_coverage"]] == pytest.approx([0, 0, 0.5 / 3, 1 / 4])
    assert found["aurc"] == pytest.approx((0.5 / 3 + 1 / 4) / 4)


def test_the_order_of_equally_confident_pairs_does_not_matter() -> None:
    gold = ["Yes", "No", "Yes", "No"]
    scores = np.array([YES, YES, YES, NO])
    turned = figures.of_verdicts(gold[::-1], scores[::-1])
    assert turned["aurc"] == figures.of_verdicts(gold, scores)["aurc"]


def test_a_tie_of_captions_is_an_error() -> None:
    found = figures.of_pairwise(np.array([0.9, 0.5, 0.1]), np.array([0.1, 0.5, 0.2]))
    assert (found["right"], found["ties"], found["pairs"]) == (1, 1, 3)
    assert found["mean_difference"] == pytest.approx((0.8 + 0.0 - 0.1) / 3)


def test_scores_in_single_precision_are_normalised() -> None:
    scores = figures.normalised(np.array([[0.3333333, 0.3333333, 0.3333333]], dtype=np.float32))
    assert scores.sum() == pytest.approx(1.0, abs=1e-15)

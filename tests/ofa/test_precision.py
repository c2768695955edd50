"""A close call is decided in fp32, a clear one is not, and both are counted."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.precision import GuardedModel, margin


@pytest.fixture(scope="module")
def fast(random_folder: Path) -> EntailmentModel:
    return EntailmentModel.load(random_folder, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"Yes": 0.5, "No": 0.5, "Maybe": 0.0}, 0.0),
        ({"Yes": 0.2, "No": 0.4, "Maybe": 0.4 * math.e**-1}, math.log(0.4 / 0.2)),
        ({"Yes": 1.0, "No": 0.0, "Maybe": 0.0}, math.inf),
    ],
)
def test_the_margin_is_the_lead_in_log_probability(scores: dict[str, float], expected: float) -> None:
    assert margin(scores) == pytest.approx(expected)


def test_nan_scores_have_no_margin() -> None:
    assert math.isnan(margin({"Yes": math.nan, "No": 0.0, "Maybe": 0.0}))


def exact_loader(model: EntailmentModel) -> tuple[list[int], Callable[[], EntailmentModel]]:
    loads: list[int] = []

    def load() -> EntailmentModel:
        loads.append(1)
        return model

    return loads, load


def test_only_close_calls_are_recomputed(
    fast: EntailmentModel, model: EntailmentModel, picture: Image.Image
) -> None:
    pairs = [Pair(picture, text) for text in ("a circle", "there is a red square", "nothing at all", "x")]
    alone = fast.judge(pairs)
    leads = sorted(margin(scores) for scores in alone)
    loads, load = exact_loader(model)
    guarded = GuardedModel(fast, load, closer_than=(leads[1] + leads[2]) / 2)
    answers = guarded.judge(pairs)
    exact = model.judge(pairs)
    for low, answer, high in zip(alone, answers, exact, strict=True):
        assert answer == pytest.approx(high if margin(low) < guarded.closer_than else low, abs=1e-5)
    assert (guarded.counts.judged, guarded.counts.recomputed, len(loads)) == (4, 2, 1)


def test_a_guard_that_never_trips_never_loads_the_exact_model(
    fast: EntailmentModel, model: EntailmentModel, picture: Image.Image
) -> None:
    loads, load = exact_loader(model)
    guarded = GuardedModel(fast, load, closer_than=0.0)
    guarded.judge([Pair(picture, "a circle")])
    assert (guarded.counts.recomputed, loads) == (0, [])

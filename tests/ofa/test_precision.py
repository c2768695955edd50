"""A close call is decided in fp32, a clear one is not, and both are counted."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image

from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.precision import GuardedModel, Step, margin


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


class Loading:
    """Loads ``model``; counts how often, and raises ``error`` while there is one."""

    def __init__(self, model: EntailmentModel) -> None:
        self.model = model
        self.times = 0
        self.error: Exception | None = None

    def __call__(self) -> EntailmentModel:
        self.times += 1
        if self.error is not None:
            raise self.error
        return self.model


PAIRS = ("a circle", "there is a red square", "nothing at all", "x")


def asked(picture: Image.Image) -> list[Pair]:
    return [Pair(picture, text) for text in PAIRS]


def halfway(scores: Sequence[Mapping[str, float]]) -> float:
    """A margin that half of the answers reach."""
    leads = sorted(map(margin, scores))
    return (leads[1] + leads[2]) / 2


def test_only_close_calls_are_recomputed(
    fast: EntailmentModel, model: EntailmentModel, picture: Image.Image
) -> None:
    alone, load = fast.judge(asked(picture)), Loading(model)
    wide = halfway(alone)
    guarded = GuardedModel([Step("bf16", wide, Loading(fast)), Step("fp32", 0.0, load)])
    answers, exact = guarded.judge(asked(picture)), model.judge(asked(picture))
    for low, answer, high in zip(alone, answers, exact, strict=True):
        assert answer == pytest.approx(high if margin(low) < wide else low, abs=1e-5)
    assert (guarded.counts.judged, guarded.counts.recomputed, load.times) == (4, {"fp32": 2}, 1)


def test_each_step_passes_on_only_its_own_close_calls(
    fast: EntailmentModel, model: EntailmentModel, picture: Image.Image
) -> None:
    """Three formats; the first has a margin that nothing reaches, the second one that half of all reach."""
    wide = halfway(fast.judge(asked(picture)))
    steps = [
        Step("int8", math.inf, Loading(model)),
        Step("bf16", wide, Loading(fast)),
        Step("fp32", 0.0, Loading(model)),
    ]
    guarded = GuardedModel(steps)
    alone, exact = fast.judge(asked(picture)), model.judge(asked(picture))
    for low, answer, high in zip(alone, guarded.judge(asked(picture)), exact, strict=True):
        assert answer == pytest.approx(high if margin(low) < wide else low, abs=1e-5)
    assert (guarded.counts.judged, guarded.counts.recomputed) == (4, {"bf16": 4, "fp32": 2})


def test_a_guard_that_never_trips_never_loads_the_exact_model(
    fast: EntailmentModel, model: EntailmentModel, picture: Image.Image
) -> None:
    load = Loading(model)
    guarded = GuardedModel([Step("bf16", 0.0, Loading(fast)), Step("fp32", 0.0, load)])
    guarded.judge([Pair(picture, "a circle")])
    assert (guarded.counts.recomputed, load.times) == ({"fp32": 0}, 0)


def test_what_needs_a_missing_step_has_no_answer_until_it_is_loaded(
    fast: EntailmentModel, model: EntailmentModel, picture: Image.Image
) -> None:
    wide, load = halfway(fast.judge(asked(picture))), Loading(model)
    guarded = GuardedModel([Step("bf16", wide, Loading(fast)), Step("fp32", 0.0, load)])
    answers, missing = guarded.judge_loaded(asked(picture))
    assert [answer is None for answer in answers] == [
        margin(low) < wide for low in fast.judge(asked(picture))
    ]
    assert (missing, guarded.counts.judged, load.times) == (1, 2, 0)
    guarded.load(1)
    answers, missing = guarded.judge_loaded(asked(picture))
    assert (answers, missing) == (guarded.judge(asked(picture)), None)
    assert load.times == 1


def test_a_pair_without_an_answer_counts_when_it_is_judged_again(
    fast: EntailmentModel, model: EntailmentModel, picture: Image.Image
) -> None:
    """The second step judges all and passes all on to a third that is not loaded yet."""
    steps = [
        Step("int8", math.inf, Loading(model)),
        Step("bf16", math.inf, Loading(fast)),
        Step("fp32", 0.0, Loading(model)),
    ]
    guarded = GuardedModel(steps)
    guarded.load(1)
    assert guarded.judge_loaded(asked(picture)) == ([None] * 4, 2)
    assert (guarded.counts.judged, guarded.counts.recomputed) == (0, {"bf16": 0, "fp32": 0})
    guarded.judge(asked(picture))
    assert (guarded.counts.judged, guarded.counts.recomputed) == (4, {"bf16": 4, "fp32": 4})


def test_a_load_that_failed_is_tried_again(
    fast: EntailmentModel, model: EntailmentModel, picture: Image.Image
) -> None:
    load = Loading(model)
    guarded = GuardedModel([Step("bf16", math.inf, Loading(fast)), Step("fp32", 0.0, load)])
    load.error = MemoryError()
    with pytest.raises(MemoryError):
        guarded.judge(asked(picture))
    load.error = None
    assert guarded.judge(asked(picture)) == model.judge(asked(picture))


def test_an_unguarded_pair_is_answered_by_the_first_step_alone(
    fast: EntailmentModel, model: EntailmentModel, picture: Image.Image
) -> None:
    load = Loading(model)
    guarded = GuardedModel([Step("bf16", math.inf, Loading(fast)), Step("fp32", 0.0, load)])
    pair = Pair(picture, "a circle", guarded=False)
    assert guarded.judge([pair]) == fast.judge([pair])
    assert load.times == 0


def test_scores_that_are_not_finite_go_on_even_unguarded(
    model: EntailmentModel, picture: Image.Image
) -> None:
    class Overflowing:
        def judge(self, pairs: Sequence[Pair], cancel_point: object) -> list[dict[str, float]]:
            return [{"Yes": math.nan, "No": math.nan, "Maybe": math.nan} for _ in pairs]

    overflowing = Loading(Overflowing())  # type: ignore[arg-type]  # only `judge` is used
    guarded = GuardedModel([Step("fp16", 0.0, overflowing), Step("fp32", 0.0, Loading(model))])
    pair = Pair(picture, "a circle", guarded=False)
    assert guarded.judge([pair]) == model.judge([pair])

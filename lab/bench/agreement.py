"""Count labels that low precision changes against fp32, without and with the precision guard."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch

from lab import ROOT
from lab.bench.cases import random_pairs
from lab.bench.sides import FP32, INT8, Subject, load
from lab.demo_training.pairs import held_out
from lab.demo_training.sentences import CATEGORIES
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.precision import MARGINS, GuardedModel, Step
from ofa.vision import CancelPoint

DEMO: Final = ROOT / "models" / "demo"
DEMO_PAIRS: Final = 2000  # per renderer
BATCH: Final = 8
SEED: Final = 20_261_122
Scores = dict[str, float]


class Remembering:
    """Record a model's answers, so that one pass gives those without and with the guard."""

    def __init__(self, model: EntailmentModel) -> None:
        self._model = model
        self.answers: list[Scores] = []

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint | None = None) -> list[Scores]:
        found = self._model.judge(pairs, cancel_point)
        self.answers += [dict(scores) for scores in found]
        return found


def agreement(subject: Subject) -> dict[str, Any]:
    """Compare random pairs on random weights, and held-out pairs of the demo model, in each format."""
    formats = [] if subject.low == torch.float32 else [subject.low_name]
    formats = [INT8, *formats] if subject.computes_int8 else formats
    if not formats:
        return {"skipped": "nothing faster than fp32 here"}
    random, demo = random_pairs(subject.pairs, SEED), demo_pairs(10 if subject.quick else DEMO_PAIRS)
    return {
        "sides": {
            formats[index]: {
                "random": _compare(subject, subject.small, random, formats[index:]),
                "demo": _compare(subject, DEMO, demo, formats[index:]),
            }
            for index in range(len(formats))
        }
    }


def demo_pairs(count: int) -> list[Pair]:
    """Return ``count`` held-out pairs of the demo model per renderer."""
    return [
        Pair(one.picture, one.sentence.text)
        for renderer in ("primary", "second")  # the third needs matplotlib, which the GPU check does without
        for one in held_out(count, CATEGORIES, renderer)
    ]


def _compare(subject: Subject, folder: Any, pairs: Sequence[Pair], formats: Sequence[str]) -> dict[str, Any]:
    """``formats``: those before fp32, as the guard takes them."""
    exact_model = EntailmentModel.load(folder, subject.device, torch.float32)
    models = [load(folder, subject.device, name) for name in formats]
    fast = Remembering(models[0])
    first = Step(formats[0], MARGINS[formats[0]], lambda: fast)  # type: ignore[arg-type,return-value]  # only `judge` is used
    between = [Step(name, MARGINS[name], lambda: models[1]) for name in formats[1:]]
    guard = GuardedModel([first, *between, Step(FP32, MARGINS[FP32], lambda: exact_model)])
    exact: list[Scores] = []
    guarded: list[Scores] = []
    for start in range(0, len(pairs), BATCH):
        part = pairs[start : start + BATCH]
        exact += exact_model.judge(part)
        guarded += guard.judge(part)
    return {
        "folder": folder.name,
        "pairs": len(pairs),
        "labels": {name: sum(_label(one) == name for one in exact) for name in ("Yes", "No", "Maybe")},
        "differing_without_guard": _differing(exact, fast.answers),
        "differing_with_guard": _differing(exact, guarded),
        "recomputed_share": {
            name: round(count / guard.counts.judged, 4) for name, count in guard.counts.recomputed.items()
        },
        "largest_difference": round(
            max(abs(a[name] - b[name]) for a, b in zip(exact, fast.answers, strict=True) for name in a), 5
        ),
    }


def _differing(exact: Sequence[Scores], other: Sequence[Scores]) -> int:
    return sum(_label(a) != _label(b) for a, b in zip(exact, other, strict=True))


def _label(scores: Scores) -> str:
    return max(scores, key=lambda name: scores[name])

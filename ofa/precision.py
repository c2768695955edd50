"""Low precision without changed labels.

A format below fp32 changes log-probabilities slightly. If the two best answers are closer than a margin above
that error, the pair is judged again in the next more precise format, in the end in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ofa.config import TaskConfig
from ofa.converted import Checksums
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.vision import CancelPoint

#: Margins in log-probability below which the next step judges a pair again, by number format. With random
#: weights of every configuration, the largest measured error of a margin is 0.085 in bf16 and 0.010 in fp16;
#: the largest margin of a label that differed is 0.038 and 0.0014 (lab.bench.margin, docs/performance.md).
#: That of int8 is provisional: it was not measured.
MARGINS: Mapping[str, float] = {"fp32": 0.0, "bf16": 0.25, "fp16": 0.05, "int8": 0.5}


def best_dtype(device: str) -> torch.dtype:
    """The fastest format with hardware support: bf16, fp16 on older GPUs, or fp32."""
    if device.startswith("cuda"):
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return torch.bfloat16
        return torch.float16 if capability >= (7, 0) else torch.float32
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if has.get("amx_bf16") or has.get("avx512_bf16") else torch.float32


def margin(scores: Mapping[str, float]) -> float:
    """Difference of the two best answers in log-probability; NaN if a score is not finite."""
    if not all(map(math.isfinite, scores.values())):
        return math.nan
    second, best = sorted(scores.values())[-2:]
    return math.inf if second <= 0.0 else math.log(best / second)


@dataclass(frozen=True, slots=True)
class Step:
    """A precision of a :class:`GuardedModel`.

    Attributes:
        name: its number format, such as ``bf16``.
        margin: lead in log-probability (see :func:`margin`) below which the next step decides.
        load: returns the model. May be called again after it has raised.
    """

    name: str
    margin: float
    load: Callable[[], EntailmentModel]


@dataclass(slots=True)
class GuardCounts:
    """Pairs answered, and by number format the pairs judged again in it."""

    judged: int = 0
    recomputed: dict[str, int] = field(default_factory=dict)


class GuardedModel:
    """A model in several precisions: each step decides the close calls of the one before it.

    The first step is loaded at once, the others when they are needed. One thread at a time may judge;
    another may call :meth:`load` meanwhile.

    Args:
        steps: fastest first.
        counts: counters to continue.

    Raises: what the first step's ``load`` raises.
    """

    def __init__(self, steps: Sequence[Step], counts: GuardCounts | None = None) -> None:
        self.steps = tuple(steps)
        self.counts = counts if counts is not None else GuardCounts()
        for step in self.steps[1:]:
            self.counts.recomputed.setdefault(step.name, 0)
        self.first = self.steps[0].load()
        self._models: list[EntailmentModel | None] = [self.first, *[None] * (len(self.steps) - 1)]

    @property
    def task(self) -> TaskConfig:
        """The task of all steps."""
        return self.first.task

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint | None = None) -> list[dict[str, float]]:
        """As :meth:`EntailmentModel.judge`; a batch's close calls are judged again together, by as many steps
        as they need. Loads missing steps and raises what that raises.

        Scores that are not finite count as close calls: fp16 overflows where fp32 does not.
        """
        answers, _ = self._judge(pairs, cancel_point, self.load)
        return [answers[index] for index in range(len(pairs))]

    def judge_loaded(
        self, pairs: Sequence[Pair], cancel_point: CancelPoint | None = None
    ) -> tuple[list[dict[str, float] | None], int | None]:
        """As :meth:`judge`, with the loaded steps alone.

        Returns:
            The answers, with None for a pair that needs a missing step, and the index of that step if any.
        """
        answers, missing = self._judge(pairs, cancel_point, self._models.__getitem__)
        return [answers.get(index) for index in range(len(pairs))], missing

    def load(self, index: int) -> EntailmentModel:
        """Return the model of step ``index``, loading it if needed. Raises what its ``load`` raises."""
        model = self._models[index]
        if model is None:
            model = self._models[index] = self.steps[index].load()
        return model

    def loaded(self) -> list[EntailmentModel]:
        """The models of the loaded steps."""
        return [model for model in self._models if model is not None]

    def keep(self, cancel_point: CancelPoint | None = None, checksums: Checksums | None = None) -> None:
        """As :meth:`EntailmentModel.keep`, for the loaded models."""
        for model in self.loaded():
            model.keep(cancel_point, checksums)

    def _judge(
        self,
        pairs: Sequence[Pair],
        cancel_point: CancelPoint | None,
        model_of: Callable[[int], EntailmentModel | None],
    ) -> tuple[dict[int, dict[str, float]], int | None]:
        """Judge with the steps that ``model_of`` returns. Returns the answers by the pairs' index, and the
        first step that was needed and missing, if any."""
        answers: dict[int, dict[str, float]] = {}
        close: Sequence[int] = range(len(pairs))
        missing = None
        for number, step in enumerate(self.steps):
            model = model_of(number)
            if model is None:
                missing = number
                break
            found = model.judge([pairs[index] for index in close], cancel_point)
            if number:
                self.counts.recomputed[step.name] += len(close)
            answers |= zip(close, found, strict=True)
            close = [index for index in close if _is_close(answers[index], step, pairs[index])]
            if not close:
                break
        if missing is not None:
            for index in close:
                del answers[index]
        self.counts.judged += len(answers)
        return answers, missing


def _is_close(scores: Mapping[str, float], step: Step, pair: Pair) -> bool:
    lead = margin(scores)
    return math.isnan(lead) or (pair.guarded and lead < step.margin)

"""Low precision without changed labels.

A format below fp32 changes log-probabilities slightly. If the two best answers are closer than a margin above
that error, the pair is judged again in the next more precise format, in the end in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from ofa import processor
from ofa.config import TaskConfig
from ofa.converted import Checksums
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.vision import CancelPoint

#: Margins in log-probability below which the next step judges a pair again, by number format. With random
#: weights of every configuration, the largest measured error of a margin is 0.085 in bf16 and 0.010 in fp16;
#: the largest margin of a label that differed is 0.038 and 0.0014 (lab.bench.margin, docs/performance.md).
#: With the demo model in int8, the largest margin of a label that differed is 0.36, the largest error of
#: a small one 0.65; a margin above that would judge more than 5 % again.
MARGINS: Mapping[str, float] = {"fp32": 0.0, "bf16": 0.25, "fp16": 0.05, "int8": 0.5}


#: The number formats of whole networks by name; int8 computes some products of one (:mod:`ofa.int8`).
DTYPES: Mapping[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
#: Larger leads stay larger whatever the error.
SMALL_LEAD = 1.0
_LEAST = 1e-300


def best_dtype(device: str) -> torch.dtype:
    """The fastest format with hardware support: bf16, fp16 on older GPUs, or fp32."""
    if device.startswith("cuda"):
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return torch.bfloat16
        return torch.float16 if capability >= (7, 0) else torch.float32
    return torch.bfloat16 if processor.kind() in processor.BF16 else torch.float32


def name_of(dtype: torch.dtype) -> str:
    """The number format's name."""
    return {dtype: name for name, dtype in DTYPES.items()}[dtype]


def margin(scores: Mapping[str, float]) -> float:
    """Difference of the two best answers in log-probability; NaN if a score is not finite."""
    if not all(map(math.isfinite, scores.values())):
        return math.nan
    second, best = sorted(scores.values())[-2:]
    return math.inf if second <= 0.0 else math.log(best / second)


@dataclass(frozen=True, slots=True)
class Moved:
    """One pair in low precision against fp32.

    Attributes:
        lead: best minus second answer in low precision.
        error: largest excess of a lead over the same lead in fp32.
        differs: whether fp32 has another best answer.
    """

    lead: float
    error: float
    differs: bool


def moved(exact: Mapping[str, float], low: Mapping[str, float]) -> Moved | None:
    """Return None where scores are not finite: the guard then computes in fp32 whatever its margin."""
    lead = margin(low)
    if math.isnan(lead):
        return None
    best = max(low, key=lambda name: low[name])
    errors = [_lead(low, best, name) - _lead(exact, best, name) for name in low if name != best]
    return Moved(lead, max(errors), best != max(exact, key=lambda name: exact[name]))


def _lead(scores: Mapping[str, float], first: str, second: str) -> float:
    return math.log(max(scores[first], _LEAST)) - math.log(max(scores[second], _LEAST))


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

    def release_graphs(self) -> None:
        """As :meth:`EntailmentModel.release_graphs`, for the loaded models."""
        for model in self.loaded():
            model.release_graphs()

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
        again: dict[str, Sequence[int]] = {}
        missing = None
        for number, step in enumerate(self.steps):
            model = model_of(number)
            if model is None:
                missing = number
                break
            found = model.judge([pairs[index] for index in close], cancel_point)
            if number:
                again[step.name] = close
            answers |= zip(close, found, strict=True)
            close = [index for index in close if _is_close(answers[index], step, pairs[index])]
            if not close:
                break
        if missing is not None:
            for index in close:
                del answers[index]
        self.counts.judged += len(answers)
        for name, indices in again.items():  # a pair without an answer will be judged again, and counts then
            self.counts.recomputed[name] += sum(index in answers for index in indices)
        return answers, missing


def _is_close(scores: Mapping[str, float], step: Step, pair: Pair) -> bool:
    lead = margin(scores)
    return math.isnan(lead) or (pair.guarded and lead < step.margin)

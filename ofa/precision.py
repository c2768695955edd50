"""Low precision without changed labels.

bf16 and fp16 change log-probabilities slightly. If the two best answers are closer than a margin above that
error, the pair is judged again in fp32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ofa.config import TaskConfig
from ofa.converted import Checksums
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.vision import CancelPoint

#: Margins in log-probability below which a pair is judged again in fp32. With random weights of every
#: configuration, the largest measured error of a margin is 0.085 in bf16 and 0.010 in fp16; the largest
#: margin of a label that differed is 0.038 and 0.0014 (lab.bench.margin, docs/performance.md).
MARGINS: Mapping[torch.dtype, float] = {torch.float32: 0.0, torch.bfloat16: 0.25, torch.float16: 0.05}


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


@dataclass(slots=True)
class GuardCounts:
    """Pairs judged, and pairs judged again in fp32."""

    judged: int = 0
    recomputed: int = 0


class GuardedModel:
    """A low-precision model whose close calls are decided by the same weights in fp32.

    One thread at a time may judge; :meth:`prepare` may run in another if ``load_exact`` allows that.

    Args:
        fast: the model that judges every pair.
        load_exact: loads the fp32 model, by :meth:`prepare` or at the first close call.
        closer_than: margin (see :func:`margin`) below which a pair is judged again.
        counts: counters to continue.
    """

    def __init__(
        self,
        fast: EntailmentModel,
        load_exact: Callable[[], EntailmentModel],
        closer_than: float,
        counts: GuardCounts | None = None,
    ) -> None:
        self.fast = fast
        self.closer_than = closer_than
        self.counts = counts if counts is not None else GuardCounts()
        self._load_exact = load_exact
        self._exact: EntailmentModel | None = None

    @property
    def task(self) -> TaskConfig:
        """The task of both models."""
        return self.fast.task

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint | None = None) -> list[dict[str, float]]:
        """As :meth:`EntailmentModel.judge`; a batch's close calls are recomputed together.

        Scores that are not finite count as close calls: fp16 overflows where fp32 does not.
        """
        results = self.fast.judge(pairs, cancel_point)
        # Negated, so that NaN is a close call.
        close = [index for index, scores in enumerate(results) if not margin(scores) >= self.closer_than]
        self.counts.judged += len(pairs)
        if close:
            self.counts.recomputed += len(close)
            exact = self.prepare().judge([pairs[index] for index in close], cancel_point)
            for index, scores in zip(close, exact, strict=True):
                results[index] = scores
        return results

    def prepare(self) -> EntailmentModel:
        """Return the fp32 model, loading it if needed. Raises what ``load_exact`` raises."""
        if self._exact is None:
            self._exact = self._load_exact()
        return self._exact

    def keep(self, cancel_point: CancelPoint | None = None, checksums: Checksums | None = None) -> None:
        """As :meth:`EntailmentModel.keep`, for the loaded models."""
        for model in self._models():
            model.keep(cancel_point, checksums)

    def release_graphs(self) -> None:
        """As :meth:`EntailmentModel.release_graphs`, for the loaded models."""
        for model in self._models():
            model.release_graphs()

    def _models(self) -> list[EntailmentModel]:
        return [self.fast] if self._exact is None else [self.fast, self._exact]

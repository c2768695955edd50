"""Low precision that never changes an answer.

bf16 moves the answers' log-probabilities by a little. Where the two best are closer than that little could
bridge, the pair is judged again in fp32: fast for clear cases, exact for close ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ofa.config import TaskConfig
from ofa.converted import Checksums
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.vision import CancelPoint

#: Leads in log-probability below which a verdict is not left to a number format. The largest error of a lead
#: that was seen over random weights of every configuration is 0.085 in bf16 and 0.010 in fp16; the largest
#: lead of a verdict that differed is 0.038 and 0.0014 (bench.margin, docs/performance.md).
MARGINS: Mapping[torch.dtype, float] = {torch.float32: 0.0, torch.bfloat16: 0.25, torch.float16: 0.05}


def best_dtype(device: str) -> torch.dtype:
    """The fastest format whose products the hardware multiplies itself: bf16, fp16 on older GPUs, or fp32."""
    if device.startswith("cuda"):
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return torch.bfloat16
        return torch.float16 if capability >= (7, 0) else torch.float32
    has = torch.cpu.get_capabilities()
    return torch.bfloat16 if has.get("amx_bf16") or has.get("avx512_bf16") else torch.float32


def margin(scores: Mapping[str, float]) -> float:
    """How far the best answer is ahead of the second in log-probability: 0 is a tie, NaN no answer at all."""
    if not all(map(math.isfinite, scores.values())):
        return math.nan
    second, best = sorted(scores.values())[-2:]
    return math.inf if second <= 0.0 else math.log(best / second)


@dataclass(slots=True)
class GuardCounts:
    """Pairs judged so far, and how many of them were judged again."""

    judged: int = 0
    recomputed: int = 0


class GuardedModel:
    """A model in low precision whose close calls are decided by the same weights in fp32.

    One thread at a time judges; :meth:`prepare` may run beside it, if ``load_exact`` bears that.

    Args:
        fast: the model that judges every pair.
        load_exact: loads the fp32 model; called by :meth:`prepare` or at the first close call.
        closer_than: margin (see :func:`margin`) below which a pair is judged again.
        counts: goes on counting there.
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
        """What both models were made for."""
        return self.fast.task

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint | None = None) -> list[dict[str, float]]:
        """As :meth:`EntailmentModel.judge`; a batch's close calls are recomputed together.

        Scores that are not finite count as close calls: fp16 overflows where fp32 does not.
        """
        results = self.fast.judge(pairs, cancel_point)
        # Written so that NaN is a close call.
        close = [index for index, scores in enumerate(results) if not margin(scores) >= self.closer_than]
        self.counts.judged += len(pairs)
        if close:
            self.counts.recomputed += len(close)
            exact = self.prepare().judge([pairs[index] for index in close], cancel_point)
            for index, scores in zip(close, exact, strict=True):
                results[index] = scores
        return results

    def prepare(self) -> EntailmentModel:
        """The fp32 model, loaded now if it is not there. Raises what ``load_exact`` raises."""
        if self._exact is None:
            self._exact = self._load_exact()
        return self._exact

    def keep(self, cancel_point: CancelPoint | None = None, checksums: Checksums | None = None) -> None:
        """As :meth:`EntailmentModel.keep`, of the models that are there."""
        for model in self._models():
            model.keep(cancel_point, checksums)

    def _models(self) -> list[EntailmentModel]:
        return [self.fast] if self._exact is None else [self.fast, self._exact]


def load_guarded(
    folder: Path,
    device: str,
    dtype: torch.dtype,
    cache: Path | None = None,
    counts: GuardCounts | None = None,
) -> GuardedModel:
    """A model folder in ``dtype``, guarded by the same folder in fp32, which is read when it is needed.

    Raises as :meth:`EntailmentModel.load` does.
    """
    return GuardedModel(
        EntailmentModel.load(folder, device, dtype, cache),
        lambda: EntailmentModel.load(folder, device, torch.float32, cache),
        MARGINS[dtype],
        counts,
    )

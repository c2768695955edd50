"""Step 2's comparison: padded batches and CUDA graphs beside the same network without them."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend

from lab.bench.cases import mixed, random_pairs
from lab.bench.gpu.tape import Tape
from lab.bench.margin import SEED, summed_up
from lab.bench.sides import Subject
from lab.bench.timing import Side, alternate, timed
from ofa.graphs import BATCHES, Backend, CudaGraphs, Recording
from ofa.layers import hidden_keys
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.precision import MARGINS, moved
from ofa.vision import CancelPoint

EAGER: Final = "eager"
ACCELERATED: Final = "accelerated"
PAIRS: Final = 200
#: Besides the recorded batches and those in between, one that is never recorded.
SIZES: Final = (*range(1, BATCHES[-1] + 1), 32)
#: The largest error of a lead in fp32; other formats have their guard's margin.
FP32_ERROR: Final = 1e-3


class Counted:
    """A backend that counts its recordings."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.mark = backend.mark
        self.recordings = 0

    def record(self, function: Callable[[CancelPoint], Tensor]) -> Recording:
        """As :meth:`ofa.graphs.Backend.record`."""
        recording = self._backend.record(function)
        self.recordings += 1
        return recording


def accelerated(subject: Subject) -> tuple[EntailmentModel, Counted]:
    """Return the fast model's network with padded batches and CUDA graphs, which a CPU emulates."""
    eager = subject.fast
    backend = Counted(CudaGraphs(eager.device) if subject.device.startswith("cuda") else Tape())
    model = EntailmentModel(eager.network, eager.tokenizer, eager.task)
    model.accelerate(backend)
    return model, backend


def agreement(subject: Subject, model: EntailmentModel, backend: Counted) -> dict[str, Any]:
    """Compare the answers to random pairs in batches of random size."""
    pairs, dice = random_pairs(4 * subject.pairs if subject.quick else PAIRS, SEED), random.Random(SEED)
    eager: list[Mapping[str, float]] = []
    fast: list[Mapping[str, float]] = []
    while len(eager) < len(pairs):
        batch = pairs[len(eager) :][: dice.choice((1, 1, *SIZES))]
        eager += subject.fast.judge(batch)
        for _ in range(2):  # so that the next time is a replay
            model.judge(batch)
        fast += model.judge(batch)
    figures = summed_up({"random": list(map(moved, eager, fast))}, MARGINS[subject.low_name])["all"]
    allowed = max(MARGINS[subject.low_name], FP32_ERROR)
    kept = figures["largest_error"] < allowed and figures["not_finite"] == 0
    return {**figures, "recordings": backend.recordings, "as_promised": kept and backend.recordings > 0}


def batch_seconds(subject: Subject, model: EntailmentModel) -> dict[str, Any]:
    """Return the seconds of a batch of each size both ways, from which ofa.graphs.BATCHES can be chosen."""
    found = {}
    for size in SIZES[:2] if subject.quick else SIZES:
        pairs = mixed(size)
        sides = {
            EAGER: _judging(subject.fast, pairs, subject),
            ACCELERATED: _judging(model, pairs, subject),
        }
        spreads = alternate(sides, 2 if subject.quick else 10, warm=2)
        found[str(size)] = {name: spread.as_dict() for name, spread in spreads.items()}
    return found


def _judging(model: EntailmentModel, pairs: Sequence[Pair], subject: Subject) -> Side:
    return lambda _: timed(lambda: model.judge(pairs), subject.device)


def attention_kernels(subject: Subject) -> dict[str, str]:
    """Return which of torch's attention kernels the encoder gets both ways; MATH would be slow."""
    config, model = subject.fast.network.config, subject.fast
    heads, tokens = config.encoder_attention_heads, 928
    q = torch.zeros(2, heads, tokens, config.d_model // heads, device=model.device, dtype=model.dtype)
    bias = q.new_zeros(1, heads, tokens, tokens)
    hidden = hidden_keys(torch.zeros(2, tokens, dtype=torch.bool, device=model.device), model.dtype)
    wide = torch.cat([q, hidden.expand(-1, heads, -1, -1)], dim=-1)
    shapes = {EAGER: (q, q, q), ACCELERATED: (wide, wide, q)}
    return {name: SDPBackend(torch._fused_sdp_choice(*qkv, bias)).name for name, qkv in shapes.items()}

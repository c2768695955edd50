"""Step 2: latency, throughput through the engine and memory, beside the network run ModelScope's way."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from torch import Tensor, nn

import ofa.model
from lab.bench.ablation import every_pass, no_cache
from lab.bench.gpu.accelerated import (
    ACCELERATED,
    EAGER,
    accelerated,
    agreement,
    attention_kernels,
    batch_seconds,
)
from lab.bench.latency import latency
from lab.bench.load import load
from lab.bench.processes import MemoryWatch
from lab.bench.sides import Subject
from lab.bench.timing import ratio
from ofa.model import EntailmentModel

CALLERS: Final = (1, 8, 64)
#: Times the emulation's speed for one request and for many callers, and the share of the card's matrix rate.
TARGETS: Final = {"latency": 8.0, "throughput": 25.0, "share_of_peak": 0.4}
EMULATED: Final = "ModelScope's way (emulated)"
MEANING: Final = (
    "our network run as ModelScope runs it, not ModelScope's code: fp32, nothing folded or kept, "
    "a decoder pass for each answer, the whole vocabulary at every position, one pair at a time"
)


def speed(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield the figures so far after the latency of one request and after each number of callers."""
    found: dict[str, Any] = {"levels": [], "accelerated_levels": []}
    fast, recorded = accelerated(subject)
    for callers in CALLERS:  # first, so that only the served format is in memory
        with MemoryWatch(os.getpid()) as host:
            section = load(subject, [callers])
        found |= {**section, "levels": [*found["levels"], {**section["levels"][0], **host.as_dict()}]}
        found["accelerated_levels"] += load(subject, [callers], fast)["levels"]
        yield found
    found["agreement"] = agreement(subject, fast, recorded)
    found |= {"batches": batch_seconds(subject, fast), "attention_kernels": attention_kernels(subject)}
    yield found
    emulated = modelscopes_way(subject.folder, subject.device)
    sides = {ACCELERATED: fast, EMULATED: emulated}
    found |= {"emulated": MEANING, "latency": latency(subject, sides)}
    seconds = {name: side["p50"] for name, side in found["latency"]["sides"].items()}
    slow = seconds.pop(EMULATED)
    found["targets"] = {
        "target": TARGETS,
        EAGER: _reached(slow, seconds[subject.low_name], found["levels"]),
        ACCELERATED: _reached(slow, seconds[ACCELERATED], found["accelerated_levels"]),
    }
    seconds |= {f"{one['callers']} callers": 1 / one["per_second"] for one in found["levels"]}
    found["faster_than_emulated"] = {name: ratio(slow, one) for name, one in seconds.items()}
    yield found


def _reached(slow: float, alone: float, levels: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what :data:`TARGETS` are about, from the seconds of one request each way."""
    return {
        "latency": ratio(slow, alone),
        "throughput": ratio(slow * max(one["per_second"] for one in levels), 1.0),
        "share_of_peak": max(one["share_of_peak"] for one in levels),
    }


def modelscopes_way(folder: Path, device: str) -> EntailmentModel:
    """Return the folder's network, run as :data:`MEANING` says."""
    with patch.object(ofa.model, "fold", lambda network: None):
        model = EntailmentModel.load(folder, device)
    every_pass(model)
    no_cache(model)
    decoder = model.network.decoder

    def whole_vocabulary(_: nn.Module, inputs: object, states: Tensor) -> None:
        decoder.output_projection(states)

    decoder.register_forward_hook(whole_vocabulary)
    return model

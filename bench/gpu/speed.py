"""Step 2: latency, throughput through the engine, memory; eager, beside the network run ModelScope's way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import torch
from torch import Tensor, nn

import ofa.model
from bench.ablation import every_pass, no_cache
from bench.latency import latency
from bench.load import load
from bench.machine import matrix_peaks
from bench.processes import MemoryWatch
from bench.sides import Subject
from bench.timing import ratio
from ofa.model import EntailmentModel

CALLERS: Final = (1, 8, 64)
EMULATED: Final = "ModelScope's way (emulated)"
MEANING: Final = (
    "our network run as ModelScope runs it, not ModelScope's code: fp32, nothing folded or kept, "
    "a decoder pass for each answer, the whole vocabulary at every position, one pair at a time"
)


def speed(subject: Subject) -> Iterator[dict[str, Any]]:
    """The figures so far, after each number of callers and after the latency of one request."""
    found: dict[str, Any] = {"emulated": MEANING, "side": subject.low_name, "levels": []}
    found["peaks_gflops"] = {
        name: round(peak / 1e9) for name, peak in matrix_peaks(subject.device, subject.quick).items()
    }
    for callers in CALLERS:  # first, so that the memory is that of the served format alone
        with MemoryWatch(os.getpid()) as host:
            section = load(subject, [callers])
        found["gflop_per_request"] = section["gflop_per_request"]
        found["levels"] += [{**section["levels"][0], **host.as_dict(), **_card_memory(subject.device)}]
        yield found
    slow = {EMULATED: modelscopes_way(subject.folder, subject.device)}
    found["latency"] = latency(subject, slow)
    seconds = {name: side["p50"] for name, side in found["latency"]["sides"].items()}
    found["faster_than_emulated"] = {
        **{name: ratio(seconds[EMULATED], one) for name, one in seconds.items()},
        **{
            f"{one['callers']} callers": ratio(one["per_second"], 1 / seconds[EMULATED])
            for one in found["levels"]
        },
    }
    yield found


def modelscopes_way(folder: Path, device: str) -> EntailmentModel:
    """The folder's network, run as :data:`MEANING` says."""
    with patch.object(ofa.model, "fold", lambda network: None):
        model = EntailmentModel.load(folder, device)
    every_pass(model)
    no_cache(model)
    decoder = model.network.decoder

    def whole_vocabulary(_: nn.Module, inputs: object, states: Tensor) -> None:
        decoder.output_projection(states)

    decoder.register_forward_hook(whole_vocabulary)
    return model


def _card_memory(device: str) -> dict[str, int]:
    """Megabytes of a card since the last call, at most: in tensors, and taken from the driver for them."""
    if not device.startswith("cuda"):
        return {}
    allocated, reserved = torch.cuda.max_memory_allocated(device), torch.cuda.max_memory_reserved(device)
    torch.cuda.reset_peak_memory_stats(device)
    return {"card_allocated_mb": allocated // 10**6, "card_reserved_mb": reserved // 10**6}

"""Step 2: latency, throughput through the engine and memory, beside the network run ModelScope's way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from torch import Tensor, nn

import ofa.model
from lab.bench.ablation import every_pass, no_cache
from lab.bench.latency import latency
from lab.bench.load import load
from lab.bench.processes import MemoryWatch
from lab.bench.sides import Subject
from lab.bench.timing import ratio
from ofa.model import EntailmentModel

CALLERS: Final = (1, 8, 64)
EMULATED: Final = "ModelScope's way (emulated)"
MEANING: Final = (
    "our network run as ModelScope runs it, not ModelScope's code: fp32, nothing folded or kept, "
    "a decoder pass for each answer, the whole vocabulary at every position, one pair at a time"
)


def speed(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield the figures so far after the latency of one request and after each number of callers."""
    found: dict[str, Any] = {"levels": []}
    for callers in CALLERS:  # first, so that only the served format is in memory
        with MemoryWatch(os.getpid()) as host:
            section = load(subject, [callers])
        found |= {**section, "levels": [*found["levels"], {**section["levels"][0], **host.as_dict()}]}
        yield found
    emulated = modelscopes_way(subject.folder, subject.device)
    found |= {"emulated": MEANING, "latency": latency(subject, {EMULATED: emulated})}
    seconds = {name: side["p50"] for name, side in found["latency"]["sides"].items()}
    slow = seconds.pop(EMULATED)
    seconds |= {f"{one['callers']} callers": 1 / one["per_second"] for one in found["levels"]}
    found["faster_than_emulated"] = {name: ratio(slow, one) for name, one in seconds.items()}
    yield found


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

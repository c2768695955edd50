"""Time and FLOP of each stage of one request, and its share of the machine's peak."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from statistics import median
from typing import Any, Final
from unittest.mock import patch

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lab.bench.cases import photograph, sentence
from lab.bench.machine import matrix_peaks
from lab.bench.sides import Subject
from lab.bench.timing import synchronize
from ofa import onednn
from ofa.image import open_picture, to_rgb
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.precision import name_of

PARTS: Final = ("features", "encoder", "decoder")


def stages(subject: Subject) -> dict[str, Any]:
    """Return ms, GFLOP and share of the matrix peak of each stage, in every precision."""
    peaks = matrix_peaks(subject.device, subject.quick)
    picture = subject.scratch / "large.jpg"
    photograph(1, 1600, 1200).save(picture, quality=90)
    models = {name_of(model.dtype): model for model in (subject.exact, subject.fast)}
    return {
        "peaks_gflops": {name: round(peak / 1e9) for name, peak in peaks.items()},
        "picture": "1600 × 1200 JPEG",
        "sides": {name: _of(model, subject, picture, peaks.get(name, 0.0)) for name, model in models.items()},
    }


def _of(model: EntailmentModel, subject: Subject, picture: Path, peak: float) -> dict[str, Any]:
    seconds = _measure(model, picture, subject.device, 3 if subject.quick else 9)
    operations = count_operations(model)
    parts: dict[str, Any] = {}
    for name, spent in seconds.items():
        part: dict[str, Any] = {"ms": round(1000 * spent, 2)}
        if operations.get(name):
            part["gflop"] = round(operations[name] / 1e9, 1)
            part["share_of_peak"] = round(operations[name] / spent / peak, 3) if peak else None
        parts[name] = part
    return parts


def _measure(model: EntailmentModel, picture: Path, device: str, runs: int) -> dict[str, float]:
    """Return median seconds: decode (in the caller's thread), each stage, the rest, and the total without
    decoding."""
    side = model.task.patch_image_size
    rows: list[dict[str, float]] = []
    for turn in range(-2, runs):
        began = time.perf_counter()
        small = to_rgb(open_picture(picture)).resize((side, side))
        decoded = time.perf_counter()
        with clocked(model, device) as spent:
            model.judge([Pair(small, sentence(turn))])
            synchronize(device)
        whole = time.perf_counter() - decoded
        if turn >= 0:
            between = whole - sum(spent.values())
            rows.append({"decode": decoded - began, **spent, "between": between, "whole": whole})
    return {name: median(row[name] for row in rows) for name in rows[0]}


def count_operations(model: EntailmentModel) -> dict[str, float]:
    """Return the FLOP of each stage for a sentence of average length, two per multiply-add."""
    side = model.task.patch_image_size
    counted: dict[str, float] = dict.fromkeys((*PARTS, "whole"), 0.0)

    def counting(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def counted_call(*args: Any, **kwargs: Any) -> Any:
            # Attention written out as products is visible to the counter whatever kernel the device has;
            # so are operations that would be fused.
            apart = patch.object(onednn, "fuses", lambda x: False)
            with apart, FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
                result = call(*args, **kwargs)
            counted[name] += counter.get_total_flops()
            return result

        return counted_call

    with wrapped(model, counting):
        model.judge([Pair(photograph(1, side, side), sentence(4))])
    counted["whole"] = sum(counted[name] for name in PARTS)
    return counted


@contextmanager
def clocked(model: EntailmentModel, device: str) -> Iterator[dict[str, float]]:
    """Collect the seconds spent in each stage while the block runs."""
    spent = dict.fromkeys(PARTS, 0.0)

    def timing(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(call)
        def timed_call(*args: Any, **kwargs: Any) -> Any:
            synchronize(device)
            began = time.perf_counter()
            result = call(*args, **kwargs)
            synchronize(device)
            spent[name] += time.perf_counter() - began
            return result

        return timed_call

    with wrapped(model, timing):
        yield spent


@contextmanager
def wrapped(
    model: EntailmentModel, wrap: Callable[[str, Callable[..., Any]], Callable[..., Any]]
) -> Iterator[None]:
    """Wrap the calls at the boundaries between stages with ``wrap``."""
    places: dict[str, tuple[Any, str]] = {
        "features": (model.network.encoder, "see"),
        "encoder": (model.network.encoder, "forward"),
        "decoder": (model.scorer, "log_scores"),
    }
    for name, (owner, attribute) in places.items():
        setattr(owner, attribute, wrap(name, getattr(owner, attribute)))
    try:
        with torch.inference_mode():
            yield
    finally:
        for owner, attribute in places.values():
            delattr(owner, attribute)  # uncovers the class's own method

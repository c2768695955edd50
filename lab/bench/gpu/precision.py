"""Step 1: every number format on the device against fp32 on the CPU, and the margin the guard needs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import torch

from lab.bench.agreement import DEMO, demo_pairs
from lab.bench.cases import random_pairs
from lab.bench.margin import SEED, answers, summed_up
from lab.bench.sides import Subject
from lab.parity.folders import SMALL, write_folder
from ofa.pair import Pair
from ofa.precision import MARGINS, Moved, moved, name_of

SMALL_PAIRS: Final = 50
DEMO_PAIRS: Final = 500  # per renderer
PAIRS: Final = 50


class Mode(NamedTuple):
    """A number format, and whether TF32 is allowed in matrix products and in convolutions."""

    dtype: torch.dtype
    products: bool = False
    convolutions: bool = True  # torch's defaults, which the service keeps


MODES: Final = {
    "fp32, TF32 off": Mode(torch.float32, convolutions=False),
    "fp32, TF32 in convolutions (torch's default)": Mode(torch.float32),
    "fp32, TF32 on": Mode(torch.float32, products=True),
    "bf16": Mode(torch.bfloat16),
    "fp16": Mode(torch.float16),
}


def precision(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield the figures of all modes after each set of pairs."""
    found: dict[str, dict[str, list[Moved | None]]] = {mode: {} for mode in MODES}
    for name, folder, pairs in _sets(subject):
        exact = answers(folder, "cpu", "fp32", pairs)
        for mode, by_name in found.items():
            with _rounding(MODES[mode]):
                low = answers(folder, subject.device, name_of(MODES[mode].dtype), pairs)
            by_name[name] = list(map(moved, exact, low))
        yield {
            mode: summed_up(by_name, MARGINS[name_of(MODES[mode].dtype)]) for mode, by_name in found.items()
        }


def _sets(subject: Subject) -> Iterator[tuple[str, Path, list[Pair]]]:
    """Yield name, folder and questions: small configurations, the demo model, the large size."""
    few = subject.pairs if subject.quick else None
    for name, spec in list(SMALL.items())[: 1 if subject.quick else None]:
        folder = write_folder(subject.scratch / name, spec)
        yield name, folder, random_pairs(few or SMALL_PAIRS, SEED)
    yield "demo", DEMO, demo_pairs(few or DEMO_PAIRS)
    yield "large shape", subject.folder, random_pairs(few or PAIRS, SEED)


@contextmanager
def _rounding(mode: Mode) -> Iterator[None]:
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn
    before = products.allow_tf32, convolutions.allow_tf32
    products.allow_tf32, convolutions.allow_tf32 = mode.products, mode.convolutions
    try:
        yield
    finally:
        products.allow_tf32, convolutions.allow_tf32 = before

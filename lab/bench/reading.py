"""Compare decoding a picture in a reader process with decoding it in the caller's thread."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

from lab.bench.cases import write_photograph
from lab.bench.sides import Subject
from lab.bench.timing import alternate, timed
from service.intake import image as image_input
from service.intake.readers import Readers

_SIDE = 480  # picture size of the published models
_MAX_PIXELS = 64_000_000
_MAX_BYTES = 1 << 25
_SECONDS = 60.0


def reading(subject: Subject) -> dict[str, Any]:
    """Measure both sides alternately on one JPEG of about 100 KB."""
    path = write_photograph(subject.scratch / "hundred.jpg", 1, 800, 600)

    def in_thread() -> object:
        return image_input.load(path, side=_SIDE, max_bytes=_MAX_BYTES, max_pixels=_MAX_PIXELS)

    with ExitStack() as stack:
        readers = Readers()
        stack.callback(readers.stop)

        def by_reader() -> object:
            deadline = time.monotonic() + _SECONDS
            with image_input.opened(path, _MAX_BYTES) as file:
                return readers.read(file, side=_SIDE, max_pixels=_MAX_PIXELS, deadline=deadline)

        sides = {"caller's thread": in_thread, "reader": by_reader}
        spreads = alternate(
            {name: lambda _, call=call: timed(call) for name, call in sides.items()},  # type: ignore[misc]
            20 if subject.quick else 300,
            warm=10,
        )
    cost = spreads["reader"].median - spreads["caller's thread"].median
    return {
        "picture": f"800 × 600 JPEG, {path.stat().st_size / 1000:.0f} KB",
        "sides": {name: spread.as_dict() for name, spread in spreads.items()},
        "cost_ms": round(1000 * cost, 3),
    }

"""The input of the network. A separate module, so that importing it does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True)
class Pair:
    """An RGB image and a hypothesis to judge, with an optional premise. If it is not ``guarded``, a close
    call stands as the fastest precision decided it."""

    image: Image.Image
    hypothesis: str
    premise: str | None = None
    guarded: bool = True

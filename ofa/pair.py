"""What the network is asked. Kept apart from the network, so that importing it does not import torch."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image


@dataclass(frozen=True, slots=True)
class Pair:
    """One question: does ``image`` (PIL, RGB) show ``hypothesis``, given ``premise`` if there is one?"""

    image: Image.Image
    hypothesis: str
    premise: str | None = None

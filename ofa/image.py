"""Convert a picture to the network's input as ModelScope's preprocessor does: RGB, resized to a square with
PIL's bicubic filter, scaled to [0, 1] and normalised.

Two intended differences: transparency is composited on white, where ModelScope drops the alpha channel
(``transparency="dropped"``), and pictures of more than 8 bits per channel are scaled instead of clipped.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from ofa.errors import ImageError
from ofa.picture import MAX_PIXELS, Transparency, opened, read, square, to_rgb

__all__ = ["open_picture", "to_pixels", "to_rgb"]

_MAX_BYTES = 1 << 30


def open_picture(
    path: str | Path, *, transparency: Transparency = "white", max_pixels: int = MAX_PIXELS
) -> Image.Image:
    """Read a file as a browser shows it: EXIF orientation applied, first frame, RGB.

    Raises:
        ImageError: the file is missing, not a picture, damaged, truncated or too large.
    """
    try:
        with opened(path, _MAX_BYTES) as file:
            return read(file.read(), max_pixels).pixels(transparency)
    except MemoryError as error:
        raise ImageError("There is not enough memory for the picture.") from error


def to_pixels(
    image: Image.Image, size: int, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> torch.Tensor:
    """The pixels, (3, size, size), fp32, normalised per channel."""
    pixels = np.array(square(to_rgb(image), size), dtype=np.uint8)
    scaled = torch.from_numpy(pixels).permute(2, 0, 1).to(torch.float32).div(255)
    return scaled.sub(torch.tensor(mean)[:, None, None]).div(torch.tensor(std)[:, None, None])

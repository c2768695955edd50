"""A picture to the network's pixels, as ModelScope's preprocessor reads it.

RGB, squashed to a square with PIL's bicubic filter, scaled to [0, 1] and normalised. Transparency is
dropped as there (the colours under it show). What ModelScope cannot read, pictures of more than
8 bits per channel, is scaled to 8 bits first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from ofa.errors import ImageError

_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def open_picture(path: str | Path) -> Image.Image:
    """Read a file as ModelScope does: upright by its EXIF tag, first frame, RGB.

    Raises:
        ImageError: the file is missing, no picture, truncated, or absurdly large.
    """
    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            return to_rgb(upright)
    except FileNotFoundError as error:
        raise ImageError("there is no such picture file") from error
    except UnidentifiedImageError as error:
        raise ImageError("the file is not a picture of a known format") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError("the picture is damaged, truncated or too large") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """An 8-bit RGB picture of any PIL mode."""
    if image.mode in _DEEP_MODES:
        image = _to_8_bits(image)
    return image.convert("RGB")


def to_pixels(
    image: Image.Image, size: int, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> torch.Tensor:
    """Pixels of shape (3, size, size), fp32, normalised per channel."""
    square = to_rgb(image).resize((size, size), Image.Resampling.BICUBIC)
    scaled = torch.from_numpy(np.array(square, dtype=np.uint8)).permute(2, 0, 1).to(torch.float32).div(255)
    return scaled.sub(torch.tensor(mean)[:, None, None]).div(torch.tensor(std)[:, None, None])


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Scale deep pictures: 16-bit integers by 257, floats in [0, 1] by 255; what fits 8 bits is kept."""
    values = np.nan_to_num(np.asarray(image, dtype=np.float64), nan=0.0, posinf=65535.0, neginf=0.0)
    top = float(values.max(initial=0.0))
    if image.mode == "F" and top <= 1.0:
        values = values * 255.0
    elif image.mode.startswith("I;16") or top > 255.0:
        values = values / 257.0
    return Image.fromarray(np.clip(np.rint(values), 0, 255).astype(np.uint8), mode=None)

"""From a file or a PIL image to a picture that may be judged, or an error that says what to change.

Refused before any decoding: what is no regular file, has too many bytes, is none of our formats, or says in
its header that it has too many pixels. Accepted pictures come upright (EXIF), as their first frame, and with
transparency laid on white, as the page shows them. Pictures deeper than 8 bits (modes ``I``, ``I;16``, ``F``)
are passed on as they are: how they are scaled is decided in one place, where the model's pixels are made.
"""

from __future__ import annotations

import io
import os
import re
import stat
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from PIL import Image, ImageOps, UnidentifiedImageError

from service.errors import InputError

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
DEEP_MODES: Final = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_SAVE_AS: Final = "Save it as JPEG or PNG and try again."
_TRUNCATED: Final = re.compile(r"truncat|end of file|unexpected end|incomplete", re.IGNORECASE)
_WHITE: Final = (255, 255, 255, 255)


@dataclass(frozen=True, slots=True)
class Picture:
    """``image`` is RGB, or one of DEEP_MODES; ``size`` is the (width, height) it was sent with."""

    image: Image.Image
    size: tuple[int, int]


def load(source: object, *, max_bytes: int, max_pixels: int) -> Picture:
    """The picture in ``source``: a path or a PIL image.

    Raises InputError: ``no_image``, ``not_an_image``, ``image_bytes_too_large``, ``image_too_large``,
    ``image_truncated``, ``image_unreadable``.
    """
    if source is None or source == "":
        raise InputError("There is no picture.", code="no_image", remedy="Upload, paste or take a picture.")
    if isinstance(source, Image.Image):
        return _decoded(source, max_pixels)
    if isinstance(source, (str, Path)):
        with _opened(_read(Path(source), max_bytes), max_pixels) as image:
            return _decoded(image, max_pixels)
    raise InputError(
        f"A {type(source).__name__} is no picture.",
        code="not_an_image",
        remedy="Give a path or a PIL image.",
    )


def _read(path: Path, max_bytes: int) -> bytes:
    """The file's bytes, read once, so that what was checked is what is decoded."""
    try:
        # Without O_NONBLOCK, opening a named pipe would wait for a writer that never comes.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            about = os.fstat(handle)
            if not stat.S_ISREG(about.st_mode):
                raise _not_an_image("That is not a picture file.")
            size = about.st_size
            with open(handle, "rb", closefd=False) as file:
                data = file.read(max_bytes + 1) if size <= max_bytes else b""
        finally:
            os.close(handle)
    except FileNotFoundError as error:
        raise InputError(
            "There is no such picture file.", code="no_image", remedy="Check the path, or upload it again."
        ) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise InputError(
            "The picture file cannot be read.", code="image_unreadable", remedy="Check its permissions."
        ) from error
    size = max(size, len(data))
    if size > max_bytes:
        raise InputError(
            f"The picture file has {size} bytes; at most {max_bytes} are allowed.",
            code="image_bytes_too_large",
            remedy="Make it smaller; the model looks at 480 × 480 pixels anyway.",
            bytes=size,
            limit=max_bytes,
        )
    return data


@cache
def _readable() -> tuple[str, ...]:
    """FORMATS, less what this build of Pillow was made without: it fails on a name it does not know."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _opened(data: bytes, max_pixels: int) -> Image.Image:
    """The picture by its header; nothing is decoded yet."""
    if not data:
        raise _not_an_image("The file is empty.")
    try:
        return Image.open(io.BytesIO(data), formats=_readable())
    except UnidentifiedImageError as error:
        raise _not_an_image("The file is not a picture of a known format.") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(
            f"The picture has more than {max_pixels} pixels.",
            code="image_too_large",
            remedy="Make it smaller; the model looks at 480 × 480 pixels anyway.",
            limit=max_pixels,
        ) from error
    except Exception as error:  # Pillow's readers raise whatever a malformed header makes them trip over
        raise _unreadable(error) from error


def _decoded(image: Image.Image, max_pixels: int) -> Picture:
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(
            f"The picture has {width} × {height} pixels; at most {max_pixels} are allowed.",
            code="image_too_large",
            remedy="Make it smaller; the model looks at 480 × 480 pixels anyway.",
            width=width,
            height=height,
            limit=max_pixels,
        )
    if width == 0 or height == 0:
        raise _not_an_image("The picture has no pixels.")
    try:
        image.load()
        return Picture(_flat(ImageOps.exif_transpose(image)), (width, height))
    except MemoryError:
        raise
    except Exception as error:  # as above, in the pixels
        raise _unreadable(error, width=width, height=height) from error


def _flat(image: Image.Image) -> Image.Image:
    """RGB with transparency on white; deep pictures as they are."""
    if image.mode in DEEP_MODES:
        return image.copy()
    if not image.has_transparency_data:
        return image.convert("RGB")
    picture = image.convert("RGBA")
    ground = Image.new("RGBA", picture.size, _WHITE)
    return Image.alpha_composite(ground, picture).convert("RGB")


def _not_an_image(message: str) -> InputError:
    return InputError(
        message,
        code="not_an_image",
        remedy=f"Send a picture: {', '.join(FORMATS)}.",
        formats=", ".join(FORMATS),
    )


def _unreadable(error: Exception, **size: int) -> InputError:
    if isinstance(error, EOFError) or _TRUNCATED.search(str(error)):
        return InputError(
            "The picture file ends too early.",
            code="image_truncated",
            remedy="Upload it again, whole.",
            **size,
        )
    return InputError("The picture is damaged.", code="image_unreadable", remedy=_SAVE_AS, **size)

"""Convert a submitted picture to the square that the model sees, or raise an error that says what to change.

Files are opened and checked here and decoded by a reader process (service.intake.readers); PIL images are
converted in the caller's thread.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

from PIL import Image

from ofa import picture
from ofa.container import FORMATS
from ofa.errors import ImageError
from service.contract.causes import InputCode
from service.contract.errors import InputError

_SMALLER: Final = "Make it smaller; models see at most 480 × 480 pixels."
_REMEDIES: Final = {
    InputCode.NO_IMAGE: "Check the path, or upload it again.",
    InputCode.NOT_AN_IMAGE: f"Send a picture: {', '.join(FORMATS)}.",
    InputCode.IMAGE_UNSUPPORTED: "Save it as JPEG or PNG and try again.",
    InputCode.IMAGE_BYTES_TOO_LARGE: _SMALLER,
    InputCode.IMAGE_TOO_LARGE: _SMALLER,
    InputCode.IMAGE_TRUNCATED: "The file is incomplete: upload it again.",
    InputCode.IMAGE_UNREADABLE: "Save it as JPEG or PNG and try again.",
    InputCode.TOO_SLOW_TO_READ: "Save it as an ordinary JPEG or PNG, or make it smaller.",
}


class Picture(NamedTuple):
    """``image`` is RGB, upright, and the square that the model sees; ``size`` is the original (width,
    height), ``upright`` the same after its orientation was applied."""

    image: Image.Image
    size: tuple[int, int]
    upright: tuple[int, int]


@contextmanager
def opened(source: object, max_bytes: int) -> Iterator[picture.File]:
    """Open the file that ``source`` names, or that it holds as bytes. Raises InputError."""
    if source is None or source == "":
        raise InputError("There is no picture.", code="no_image", remedy="Upload, paste or take a picture.")
    if isinstance(source, bytes):
        with input_errors():
            yield picture.in_memory(source, max_bytes)
        return
    if not isinstance(source, (str, Path)):
        raise InputError(
            f"A {type(source).__name__} is not a picture.",
            code="not_an_image",
            remedy="Give a path, the file's bytes or a PIL image.",
        )
    with input_errors(), picture.opened(source, max_bytes) as file:
        yield file


def load(source: object, *, side: int, max_bytes: int, max_pixels: int) -> Picture:
    """Read a path or a PIL image in this thread without a time limit: for the command line, whose files are
    trusted. Raises InputError and MemoryError."""
    if isinstance(source, Image.Image):
        return converted(source, side=side, max_pixels=max_pixels)
    with opened(source, max_bytes) as file:
        header = picture.read(file.read(), max_pixels)
        pixels = header.pixels()
        return Picture(picture.square(pixels, side), header.size, pixels.size)


def converted(image: Image.Image, *, side: int, max_pixels: int) -> Picture:
    """Convert a PIL image to what the model sees. Raises InputError and MemoryError."""
    size = image.size
    with input_errors():
        picture.check_size(*size, max_pixels)
        pixels = picture.of_image(image)
        return Picture(picture.square(pixels, side), size, pixels.size)


def thumbnail(read: Picture, most: int) -> bytes:
    """Return a JPEG with the proportions of the original and ``most`` pixels on its longer side."""
    longer = max(read.upright)
    width, height = (max(1, round(most * side / longer)) for side in read.upright)
    file = io.BytesIO()
    read.image.resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=80)
    return file.getvalue()


@contextmanager
def input_errors() -> Iterator[None]:
    """Map ImageError to InputError."""
    try:
        yield
    except ImageError as error:
        code = InputCode(error.code)
        raise InputError(str(error), code=code, remedy=_REMEDIES[code], **error.facts) from error

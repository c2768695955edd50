"""From what was sent as a picture to the square that the model sees, or an error that says what to change.

A file is opened and its kind and size are checked here; a reader process decodes it (service.intake.readers).
A PIL picture, which somebody has opened already, is converted in the caller's thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from PIL import Image

from ofa import picture
from ofa.container import FORMATS
from ofa.errors import ImageError
from service.contract.causes import InputCode
from service.contract.errors import InputError

_SMALLER: Final = "Make it smaller; the model sees 480 × 480 pixels."
_REMEDIES: Final = {
    InputCode.NO_IMAGE: "Check the path, or upload it again.",
    InputCode.NOT_AN_IMAGE: f"Send a picture: {', '.join(FORMATS)}.",
    InputCode.IMAGE_UNSUPPORTED: "Save it as JPEG or PNG and try again.",
    InputCode.IMAGE_BYTES_TOO_LARGE: _SMALLER,
    InputCode.IMAGE_TOO_LARGE: _SMALLER,
    InputCode.IMAGE_TRUNCATED: "Upload it again, whole.",
    InputCode.IMAGE_UNREADABLE: "Save it as JPEG or PNG and try again.",
    InputCode.TOO_SLOW_TO_READ: "Save it as an ordinary JPEG or PNG, or make it smaller.",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """``image`` is RGB, upright, and the square that the model sees; ``size`` is the (width, height) of what
    was sent."""

    image: Image.Image
    size: tuple[int, int]


@contextmanager
def opened(source: object, max_bytes: int) -> Iterator[picture.File]:
    """The file that ``source`` names, held open. Raises InputError."""
    if source is None or source == "":
        raise InputError("There is no picture.", code="no_image", remedy="Upload, paste or take a picture.")
    if not isinstance(source, (str, Path)):
        raise InputError(
            f"A {type(source).__name__} is not a picture.",
            code="not_an_image",
            remedy="Give a path or a PIL image.",
        )
    with input_errors(), picture.opened(source, max_bytes) as file:
        yield file


def load(source: object, *, side: int, max_bytes: int, max_pixels: int) -> Picture:
    """What ``source`` shows, a path or a PIL picture, read in this thread, without any limit on its time: for
    the command line, whose files are its caller's own. Raises InputError and MemoryError."""
    if isinstance(source, Image.Image):
        return converted(source, side=side, max_pixels=max_pixels)
    with opened(source, max_bytes) as file:
        header = picture.read(file.read(), max_pixels)
        return Picture(picture.square(header.pixels(), side), header.size)


def converted(image: Image.Image, *, side: int, max_pixels: int) -> Picture:
    """A PIL picture as the model sees it. Raises InputError and MemoryError."""
    size = image.size
    with input_errors():
        picture.check_size(*size, max_pixels)
        return Picture(picture.square(picture.of_image(image), side), size)


@contextmanager
def input_errors() -> Iterator[None]:
    """Turns an ImageError into an InputError, once."""
    try:
        yield
    except ImageError as error:
        code = InputCode(error.code)
        raise InputError(str(error), code=code, remedy=_REMEDIES[code], **error.facts) from error

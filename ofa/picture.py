"""Decode a picture file to RGB pixels as a browser shows them: EXIF orientation applied, first frame,
transparency on white, more than 8 bits per channel scaled to 8.

Needs Pillow, and NumPy for more than 8 bits; does not import the network.
"""

from __future__ import annotations

import io
import os
import re
import stat
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple

from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PngImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from ofa import heif
from ofa.container import Reduced, reduce, truncated, unsupported
from ofa.errors import ImageError
from ofa.tiff import orientation_of

Transparency = Literal["white", "dropped"]

MAX_PIXELS: Final = 64_000_000
MAX_SIDE: Final = 65_535
DEEP_MODES: Final = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_PIXEL_BYTES: Final = {"1": 1, "L": 1, "P": 1, "I;16": 2, "I;16B": 2}  # as Pillow stores them; else 4
_STRIP: Final = 1 << 20  # pixels converted at once
_TRUNCATED: Final = re.compile(r"truncat|end of file|unexpected end|incomplete|not enough", re.IGNORECASE)
_UNSUPPORTED: Final = re.compile(
    r"unsupported|not supported|cannot handle|unknown (pixel|data)", re.IGNORECASE
)
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class _Avif(AvifImagePlugin.AvifImageFile):
    """Uses the orientation of the file's properties, as browsers do, and ignores EXIF."""

    orientation = 1

    def _open(self) -> None:
        if not AvifImagePlugin.SUPPORTED:
            raise unsupported("AVIF")
        assert self.fp is not None
        self._decoder = AvifImagePlugin._avif.AvifDecoder(  # type: ignore[attr-defined]
            self.fp.read(), "auto", 1
        )
        self._size, self.n_frames, self._mode, _, _, self.orientation, _ = self._decoder.get_info()
        self.seek(0)


_PLUGINS: Final[Mapping[str, Callable[[IO[bytes]], ImageFile.ImageFile]]] = {
    "AVIF": _Avif,
    "BMP": BmpImagePlugin.BmpImageFile,
    "GIF": GifImagePlugin.GifImageFile,
    "HEIF": heif.opened,
    "JPEG": JpegImagePlugin.JpegImageFile,
    "PNG": PngImagePlugin.PngImageFile,
    "PPM": PpmImagePlugin.PpmImageFile,
    "TIFF": TiffImagePlugin.TiffImageFile,
    "WEBP": WebPImagePlugin.WebPImageFile,
}


class Header:
    """A picture with a parsed header, not yet decoded.

    Attributes:
        size: width and height as stored, before the orientation is applied.
    """

    def __init__(self, file: Reduced) -> None:
        self._file: Reduced | None = file
        self._image = None if file.size else _open(file.data, file.format)
        self._frame = file.size or (self._image.size if self._image is not None else (0, 0))
        self._mode = "RGBA" if self._image is None else self._image.mode
        self._plain = self._image is not None and _is_plain(self._image) and file.canvas is None
        self.size = file.canvas[:2] if file.canvas else self._frame

    @property
    def deep(self) -> bool:
        """Whether it has more than 8 bits per channel, so that NumPy is needed."""
        return self._mode in DEEP_MODES

    def memory(self, side: int) -> int:
        """Upper bound in bytes for ``pixels`` and ``square`` to ``side``, the file included."""
        file = self._file
        assert file is not None, "call before pixels()"
        frame, whole = self._frame[0] * self._frame[1], self.size[0] * self.size[1]
        stored = _PIXEL_BYTES.get(self._mode, 4) * frame
        turned = file.orientation > 1 or file.format in (
            "AVIF",
            "WEBP",
        )  # their orientation is known only later
        steps = (
            stored + file.overhead * frame,
            stored + (0 if self._plain else 4 * whole),
            4 * whole * (2 if turned else 1) + 4 * side * max(self.size),
        )
        return round(max(steps)) + 3 * len(file.data) + (16 << 20)

    def pixels(self, transparency: Transparency = "white") -> Image.Image:
        """Decode the picture, RGB and upright. May be called once, since it frees the file's data early.

        Raises:
            ImageError: ``image_truncated``, ``image_unsupported`` or ``image_unreadable``.
            MemoryError.
        """
        file, image = self._file, self._image
        assert file is not None, "may be called once"
        self._file = self._image = None
        with _pillow_errors(width=self.size[0], height=self.size[1]):
            expected = None if file.twin is None else _checksum(_open(file.twin, file.format))
            if image is None:
                image = _open(file.data, file.format)
            orientation, canvas, size = _orientation(image, file), file.canvas, image.size
            del file
            image.load()
            if expected is not None and _checksum(image) != expected:
                raise truncated()
            flat = to_rgb(image, transparency)
            del image
            if canvas is not None:
                whole = Image.new("RGB", canvas[:2], "white")
                whole.paste(flat, (canvas[2], canvas[3], canvas[2] + size[0], canvas[3] + size[1]))
                flat = whole
            return _upright(flat, orientation)


def read(data: bytes, max_pixels: int = MAX_PIXELS) -> Header:
    """Parse the header of the picture in ``data``.

    Raises:
        ImageError: ``not_an_image``, ``image_unsupported``, ``image_too_large``, ``image_truncated``,
            ``image_unreadable``, ``too_slow_to_read``.
    """
    with _pillow_errors():
        header = Header(reduce(data))
    check_size(*header.size, max_pixels)
    return header


def check_size(width: int, height: int, max_pixels: int) -> None:
    """Raise ImageError for an empty or too large picture."""
    if width * height > max_pixels:
        raise ImageError(
            f"The picture has {width} × {height} pixels; at most {max_pixels} are allowed.",
            "image_too_large",
            width=width,
            height=height,
            limit=max_pixels,
        )
    if max(width, height) > MAX_SIDE:
        raise ImageError(
            f"The picture has {width} × {height} pixels; at most {MAX_SIDE} are allowed on a side.",
            "image_too_large",
            width=width,
            height=height,
        )
    if not (width and height):
        raise ImageError("The picture has no pixels.", "not_an_image")


def of_image(image: Image.Image) -> Image.Image:
    """Convert a PIL image to RGB with its EXIF orientation applied. May return ``image`` itself.

    Raises ImageError and MemoryError.
    """
    with _pillow_errors():
        image.load()
        orientation = 1
        with suppress(Exception):  # an unreadable EXIF block is ignored
            orientation = image.getexif().get(0x0112, 1)
        return _upright(to_rgb(image), orientation)


def to_rgb(image: Image.Image, transparency: Transparency = "white") -> Image.Image:
    """Convert a PIL image of any mode to 8-bit RGB; ``image`` itself if it is."""
    if _is_plain(image) or (image.mode == "RGB" and transparency == "dropped"):
        return image
    to_grey = _grey_scale(image) if image.mode in DEEP_MODES else None
    flat = Image.new("RGB", image.size)
    for box in _strips(image):
        strip = image.crop(box)
        if to_grey is not None:
            strip = to_grey(strip)
        if transparency == "dropped":
            strip.info.pop("transparency", None)
        elif strip.has_transparency_data:
            ground = Image.new("RGBA", strip.size, "white")
            strip = Image.alpha_composite(ground, strip.convert("RGBA"))
        flat.paste(strip.convert("RGB"), box)
    return flat


def square(image: Image.Image, side: int) -> Image.Image:
    """Resize the whole picture to the square that the network sees."""
    return image.resize((side, side), Image.Resampling.BICUBIC)


class File(NamedTuple):
    """An open file: its size, and a function that reads all bytes from the start."""

    size: int
    read: Callable[[], bytes]


@contextmanager
def opened(path: str | Path, max_bytes: int) -> Iterator[File]:
    """Open a picture file.

    Raises:
        ImageError: ``no_image``, ``not_an_image``, ``image_unreadable``, ``image_bytes_too_large``; the last
            two also on reading.
    """
    try:
        # Without O_NONBLOCK, opening a named pipe would block.
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ImageError("There is no such picture file.", "no_image") from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null byte
        raise ImageError("The picture file cannot be read.") from error

    def read_all() -> bytes:
        try:
            with open(handle, "rb", closefd=False) as file:
                file.seek(0)
                data = file.read(max_bytes + 1)
        except OSError as error:
            raise ImageError("The picture file cannot be read.") from error
        _check_bytes(len(data), max_bytes)
        return data

    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ImageError("This is not a regular file.", "not_an_image")
        _check_bytes(about.st_size, max_bytes)
        yield File(about.st_size, read_all)
    finally:
        os.close(handle)


def in_memory(data: bytes, max_bytes: int) -> File:
    """Return a picture file that is held in memory. Raises ImageError: ``image_bytes_too_large``."""
    _check_bytes(len(data), max_bytes)
    return File(len(data), lambda: data)


def _check_bytes(size: int, most: int) -> None:
    if size > most:
        raise ImageError(
            f"The picture file has {size} bytes; at most {most} are allowed.",
            "image_bytes_too_large",
            bytes=size,
            limit=most,
        )


def _open(data: bytes, format: str) -> ImageFile.ImageFile:
    """Open with the plugin of ``format``. Raises what Pillow raises."""
    return _PLUGINS[format](io.BytesIO(data))


def _is_plain(image: Image.Image) -> bool:
    return image.mode == "RGB" and "transparency" not in image.info


def _orientation(image: ImageFile.ImageFile, file: Reduced) -> int:
    if isinstance(image, _Avif):
        return image.orientation
    return orientation_of(image.info.get("exif", b"")) if file.format == "WEBP" else file.orientation


def _strips(image: Image.Image) -> Iterator[tuple[int, int, int, int]]:
    """Boxes that cover the image from top to bottom."""
    rows = max(1, _STRIP // image.width)
    for top in range(0, image.height, rows):
        yield 0, top, image.width, min(top + rows, image.height)


def _checksum(image: Image.Image) -> int:
    image.load()
    total = 0
    for box in _strips(image):
        total = zlib.crc32(image.crop(box).tobytes(), total)
    return total


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _grey_scale(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """A function that converts a strip to 8-bit grey: 16-bit integers divided by 257, floats in [0, 1] times
    255; values within 8 bits are kept. A transparent value becomes alpha. Raises ImageError for values beyond
    16 bits."""
    import numpy as np  # late: most pictures do not need it

    def values_of(strip: Image.Image) -> Any:
        values = np.asarray(strip)
        return np.nan_to_num(values, nan=0.0, posinf=65535.0, neginf=0.0) if image.mode == "F" else values

    sixteen = image.mode.startswith("I;16")
    top = 65535.0 if sixteen else max(float(values_of(image.crop(box)).max()) for box in _strips(image))
    if top > 65535.0:
        raise unsupported("A picture with values beyond 16 bits")
    divisor = 257.0 if sixteen or top > 255.0 else 1.0
    factor = 255.0 if image.mode == "F" and top <= 1.0 else 1.0
    greys = np.clip(np.rint(np.arange(65536) / divisor), 0, 255).astype(np.uint8)
    hidden = image.info.get("transparency")

    def grey(strip: Image.Image) -> Image.Image:
        values = values_of(strip)
        if image.mode == "F":
            scaled = values.astype(np.float64) * factor / divisor
            made = np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
        else:
            made = greys[np.maximum(values, 0)]
        flat = Image.fromarray(made)
        if isinstance(hidden, int):
            flat.putalpha(Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)))
        return flat

    return grey


@contextmanager
def _pillow_errors(**facts: int) -> Iterator[None]:
    """Map any exception of Pillow's decoders, except MemoryError, to ImageError with ``facts``."""
    try:
        yield
    except MemoryError:
        raise
    except ImageError as error:
        error.facts = facts | error.facts
        raise
    except Exception as error:
        found = _error_of(error)
        found.facts = facts
        raise found from error


def _error_of(error: Exception) -> ImageError:
    text = str(error)
    if isinstance(error, EOFError) or _TRUNCATED.search(text):
        return truncated()
    if isinstance(error.__cause__, KeyError) or _UNSUPPORTED.search(text):
        return unsupported("This kind of picture file")
    return ImageError("The picture is damaged.")

"""HEIF files with HEVC (HEIC): read the picture's size from the boxes, and open the file with pillow-heif.

pillow-heif is optional. libheif applies the rotation, mirroring and cropping of the file's properties and
ignores EXIF, as browsers do; more than 8 bits are scaled to 8.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import IO, Any, Final, NamedTuple

from PIL import ImageFile

from ofa.errors import ImageError

_HEVC: Final = frozenset((b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"))
_AV1: Final = frozenset((b"avif", b"avis"))
_GENERAL: Final = frozenset((b"mif1", b"msf1", b"miaf"))  # of any codec
_BRANDS_END: Final = 256  # bytes of the file in which a compatible brand counts
_BOXES: Final = 4096  # per level; telephones write about twenty
_ITEMS: Final = 4096  # a photograph of 48 megapixels has about 200
#: Bytes per pixel that decoding takes beside the result, for channels of 8 bits and of more.
_OVERHEAD: Final = 14.0
_DEEP_OVERHEAD: Final = 24.0


class Outline(NamedTuple):
    """Width and height of the primary picture before it is cropped or rotated; ``overhead`` is the bytes per
    pixel that decoding needs in addition to the pixels."""

    width: int
    height: int
    overhead: float


def is_heif(data: bytes) -> bool:
    """Whether the file declares HEVC as its codec."""
    if data[4:8] != b"ftyp":
        return False
    major, end = data[8:12], min(int.from_bytes(data[:4]), _BRANDS_END)
    brands = {data[at : at + 4] for at in range(16, end, 4)}
    return major in _HEVC or (major in _GENERAL and bool(brands & _HEVC) and not brands & _AV1)


def outline(data: bytes) -> Outline:
    """Read the boxes of the file.

    Raises:
        ImageError: ``image_unsupported`` without pillow-heif, ``image_truncated``, ``image_unreadable``, or
            ``too_slow_to_read`` for too many parts.
        struct.error: the file ends too early.
    """
    _pillow_heif()
    own = _properties(data, *_meta(data))
    if b"ispe" not in own:
        raise ImageError("The picture has no size.")
    width, height = struct.unpack_from(">II", data, own[b"ispe"] + 4)
    deep = False  # without the property, memory is limited as for 8 bits
    if b"pixi" in own:
        first = own[b"pixi"] + 5
        deep = max(data[first : first + data[first - 1]], default=0) > 8
    return Outline(width, height, _DEEP_OVERHEAD if deep else _OVERHEAD)


def opened(file: IO[bytes]) -> ImageFile.ImageFile:
    """Decode with pillow-heif. Raises as ``outline`` does, and what pillow-heif raises."""
    width, height, _ = outline(file.read())
    picture: ImageFile.ImageFile = _pillow_heif().HeifImageFile(file)
    picture.load()  # only now is its size the true one
    if picture.width * picture.height > width * height:
        raise ImageError("The picture is damaged.")
    return picture


def _pillow_heif() -> Any:
    """Import it, since most pictures do not need it. Raises ImageError: ``image_unsupported``."""
    try:
        import pillow_heif
    except ImportError as error:
        raise ImageError(
            "HEIC support is not installed on this server.", "image_unsupported", missing_heic=1
        ) from error
    options = pillow_heif.options
    options.DECODE_THREADS = 0  # in this thread, whose time and memory are limited
    options.THUMBNAILS = options.DEPTH_IMAGES = options.AUX_IMAGES = False
    return pillow_heif


def _meta(data: bytes) -> tuple[int, int]:
    """Start and end of the boxes in the first meta box. Raises ImageError."""
    found = None
    for kind, start, end in _boxes(data, 0, len(data)):
        if end > len(data):
            raise ImageError("The picture file ends too early.", "image_truncated")
        if kind == b"meta" and found is None:
            found = start + 4, end
    if found is None:
        raise ImageError("The file has no still picture.", "image_unsupported")
    return found


def _properties(data: bytes, start: int, end: int) -> dict[bytes, int]:
    """Start of each property of the primary picture, by type. Raises ImageError and struct.error."""
    meta = _children(data, start, end)
    if b"pitm" not in meta or b"iprp" not in meta:
        raise ImageError("The file has no primary picture.")
    at, _ = meta[b"pitm"]
    (primary,) = struct.unpack_from(">I" if data[at] else ">H", data, at + 4)
    numbers: set[int] = set()
    listed: list[tuple[bytes, int, int]] = []
    for kind, inner, last in _boxes(data, *meta[b"iprp"]):
        if kind == b"ipco":
            listed = list(_boxes(data, inner, last))
        elif kind == b"ipma":
            numbers |= set(_associated(data, inner, last, primary))
    return {kind: inner for number, (kind, inner, _) in enumerate(listed, 1) if number in numbers}


def _boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of each box's content; the last may end after ``end``."""
    at = start
    for _ in range(_BOXES):
        if at + 8 > end:
            return
        size, kind = struct.unpack_from(">I4s", data, at)
        head = 8
        if size == 1:
            head = 16
            (size,) = struct.unpack_from(">Q", data, at + 8)
        elif size == 0:
            size = end - at
        if size < head:
            raise ImageError("The picture is damaged.")
        yield kind, at + head, at + size
        at += size
    raise _too_many_parts()


def _children(data: bytes, start: int, end: int) -> dict[bytes, tuple[int, int]]:
    """Start and end of each box inside a box, by type; of several, the first."""
    found: dict[bytes, tuple[int, int]] = {}
    for kind, inner, last in _boxes(data, start, end):
        if last > end:
            raise ImageError("The picture is damaged.")
        found.setdefault(kind, (inner, last))
    return found


def _associated(data: bytes, start: int, end: int, item: int) -> Iterator[int]:
    """Yield the numbers of an item's properties, counted from 1."""
    long_ids, long_numbers = data[start] > 0, data[start + 3] & 1
    (count,) = struct.unpack_from(">I", data, start + 4)
    if count > _ITEMS:
        raise _too_many_parts()
    entry = struct.Struct(">IB" if long_ids else ">HB")
    at = start + 8
    for _ in range(count):
        if at >= end:
            raise ImageError("The picture is damaged.")
        found, number_count = entry.unpack_from(data, at)
        at += entry.size
        numbers = struct.unpack_from(f">{number_count}{'H' if long_numbers else 'B'}", data, at)
        at += number_count * (2 if long_numbers else 1)
        if found == item:
            mask = 0x7FFF if long_numbers else 0x7F  # without the flag "essential"
            yield from (number & mask for number in numbers)


def _too_many_parts() -> ImageError:
    return ImageError("The picture file consists of too many parts.", "too_slow_to_read")

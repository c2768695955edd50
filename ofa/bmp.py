"""BMP files: refuse variants that Pillow decodes wrongly, and fix a header that it rejects needlessly."""

from __future__ import annotations

import struct
from typing import Final

from ofa.errors import ImageError

_RLE8: Final = 1
_INFO: Final = struct.Struct("<IiiHHIIiiII")
_HEAD: Final = 14


def reduced_bmp(data: bytes) -> bytes:
    """Return the file with its colour count limited to what its pixels can address.

    Raises:
        ImageError: ``not_an_image``, ``image_unsupported``.
        struct.error, IndexError: the file ends too early.
    """
    (header,) = struct.unpack_from("<I", data, _HEAD)
    if not 12 <= header <= 124:
        raise ImageError("The file is not a picture of a known format.", "not_an_image")
    if header == 12:
        return data
    if header not in (40, 52, 56, 64, 108, 124):
        raise _unsupported()
    _, width, height, _, bits, compression, *_, colours, _ = _INFO.unpack_from(data, _HEAD)
    # 2 is RLE4, whose odd runs Pillow misreads; in an OS/2 header 3 has another meaning.
    if compression not in (0, _RLE8, 3) or (header, compression) == (64, 3):
        raise _unsupported()
    if compression == _RLE8 and not _covers(data, width, height):
        raise _unsupported()  # skipped pixels are white in browsers, the first colour in Pillow
    if bits <= 8 and colours > 1 << bits:
        at = _HEAD + 32
        return data[:at] + struct.pack("<I", 1 << bits) + data[at + 4 :]
    return data


def _covers(data: bytes, width: int, height: int) -> bool:
    """Whether the runs of an RLE8 picture cover every pixel once, row by row."""
    (at,) = struct.unpack_from("<I", data, 10)
    x = y = 0
    while x <= width:
        count, value = data[at], data[at + 1]
        at += 2
        if count:
            x += count
        elif value > 2:  # literal pixels, padded to 16 bits
            x += value
            at += value + value % 2
        elif value == 2 or (x < width and y < height):  # a jump, or a row that ends too early
            return False
        elif value == 1:
            return y >= height - 1
        else:
            x, y = 0, y + 1
    return False


def _unsupported() -> ImageError:
    return ImageError("This kind of BMP is not supported.", "image_unsupported")

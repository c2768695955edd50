"""Reduce a picture file to what decoding its first frame needs, before a decoder reads it.

A file may contain text that decompresses to gigabytes, millions of empty chunks, thousands of scans, or an
animation. One function per format parses the outer structure and returns a file of the same format with the
first frame only. It drops what browsers ignore, such as a damaged comment, and keeps what they show, such as
the first frame of an animated PNG. The work is linear in the file size and the number of parts is bounded.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ofa import heif
from ofa.bmp import reduced_bmp
from ofa.errors import ImageError
from ofa.tiff import orientation_of, reduced_tiff

FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "PPM")
PARTS: Final = 200_000  # chunks, segments or blocks of a file: 32 MiB in parts of 168 bytes
SCANS: Final = 500  # of a JPEG; encoders write about ten

_PNG: Final = b"\x89PNG\r\n\x1a\n"
_JPEG_MARKER: Final = re.compile(
    rb"\xff[^\x00\x01\xd0-\xd8\xff]"
)  # other markers have no segment, or are data
_JPEG_METADATA: Final = frozenset({*range(0xE1, 0xEE), 0xEF, 0xFE})  # APP1 to 13, APP15, COM
_JPEG_FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_JPEG_END: Final = b"\xff\xd9"
_GIF_BLOCK: Final = re.compile(rb"[!,;]")
_PPM: Final = re.compile(rb"P[1-6f][\s#]")
_PPM_HEADER: Final = re.compile(rb"P[456f](?:(?:\s|#[^\r\n]*[\r\n])+-?[\d.]{1,10}){2,3}\s")
_PPM_HEADER_BYTES: Final = 4096  # comments included


@dataclass(frozen=True, slots=True)
class Reduced:
    """A file of ``format`` with one frame.

    Attributes:
        orientation: EXIF orientation, 1 to 8.
        canvas: width and height of the whole picture, and the frame's left and top edge in it; None if the
            frame is the whole picture.
        size: the frame's width and height, if the decoder allocates memory before reporting them.
        overhead: bytes per pixel that the decoder needs in addition to the pixels.
        twin: for a JPEG without end marker: a second file that decodes to the same pixels only if nothing but
            the end marker is missing.
    """

    format: str
    data: bytes
    orientation: int = 1
    canvas: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None
    overhead: float = 0.0
    twin: bytes | None = None


def reduce(data: bytes) -> Reduced:
    """Reduce the file in ``data``.

    Raises:
        ImageError: ``not_an_image``, ``image_unsupported``, ``image_truncated``, ``image_unreadable``, or
            ``too_slow_to_read`` for too many parts.
    """
    head = data[:16]
    try:
        if head.startswith(_PNG):
            return _png(data)
        if head.startswith(b"\xff\xd8\xff"):
            return _jpeg(data)
        if head.startswith((b"GIF87a", b"GIF89a")):
            return _gif(data)
        if head.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            return _tiff(data)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp(data)
        if heif.is_heif(data):
            width, height, overhead = heif.outline(data)
            return Reduced("HEIF", data, size=(width, height), overhead=overhead)
        if head[4:8] == b"ftyp" and head[8:12] in (b"avif", b"avis", b"mif1", b"msf1"):
            return Reduced("AVIF", data, overhead=8.0)
        if head.startswith(b"BM"):
            return Reduced("BMP", reduced_bmp(data))
        if _PPM.match(head):
            return _ppm(data)
    except (struct.error, IndexError) as error:
        raise truncated() from error
    if not data:
        raise ImageError("The file is empty.", "not_an_image")
    raise ImageError("The file is not a picture of a known format.", "not_an_image")


def truncated() -> ImageError:
    return ImageError("The picture file ends too early.", "image_truncated")


def unsupported(what: str) -> ImageError:
    return ImageError(f"{what} is not supported.", "image_unsupported")


def _too_many_parts() -> ImageError:
    return ImageError("The picture file consists of too many parts.", "too_slow_to_read")


# ---- PNG -------------------------------------------------------------------------------------------------


def _png(data: bytes) -> Reduced:
    """Return the IDAT image, or the first frame of an animation that does not include IDAT."""
    view, head = memoryview(data), dict[bytes, bytes]()
    still: list[memoryview] = []
    animation, orientation, before = _Animation(), 1, b""
    for kind, start, end in _chunks(data):
        if kind in (b"IHDR", b"PLTE", b"tRNS") and not still:
            if zlib.crc32(view[start - 4 : end]) == struct.unpack_from(">I", data, end)[0]:
                head[kind] = data[start:end]
            elif kind != b"tRNS":  # browsers skip a damaged ancillary chunk
                raise ImageError("The picture's header is damaged.")
        elif kind == b"IDAT" and (not still or before == kind):
            still.append(view[start:end])
        elif kind == b"eXIf":
            orientation = orientation_of(data[start:end])
        elif kind in (b"acTL", b"fcTL", b"fdAT"):
            animation.see(kind, data[start:end], bool(still))
        before = kind
    if b"IHDR" not in head or not (still or animation.frame):
        raise truncated()
    header, canvas = head[b"IHDR"], None
    width, height, depth, colours = struct.unpack_from(">IIBB", header)
    if colours == 3 and b"PLTE" not in head:
        raise ImageError("The picture has no palette.")
    if b"tRNS" in head:
        head[b"tRNS"] = _transparency(head[b"tRNS"], depth, colours)
    if place := animation.place(width, height):
        wide, high, left, top = place
        canvas, still = (width, height, left, top), animation.frame
        head[b"IHDR"] = struct.pack(">II", wide, high) + header[8:]
    return Reduced("PNG", _png_of(head, still), orientation, canvas)


class _Animation:
    """The first frame of an animated PNG whose animation does not include IDAT. None if its chunks are out of
    order: browsers then show IDAT."""

    def __init__(self) -> None:
        self.frame: list[memoryview] = []
        self._control = b""
        self._expected = 0  # sequence number of the next chunk
        self._open = False  # more of the first frame may come

    def see(self, kind: bytes, body: bytes, after_still: bool) -> None:
        """Process the next acTL, fcTL or fdAT."""
        if kind == b"acTL":
            (count,) = struct.unpack_from(">I", body)
            self._open |= not after_still and 0 < count < 1 << 31
        elif not self._open:
            return
        elif kind == b"fcTL" and (self.frame or not after_still):
            self._open = False  # the next frame, or one that begins with IDAT
        elif struct.unpack_from(">I", body)[0] != self._expected or not (kind == b"fcTL" or self._control):
            self._open, self.frame = False, []
        elif kind == b"fcTL":
            self._control = body
        else:
            self.frame.append(memoryview(body)[4:])
        self._expected += kind != b"acTL"

    def place(self, width: int, height: int) -> tuple[int, int, int, int] | None:
        """The frame's width, height, left and top edge within the picture; None without a frame."""
        if not self.frame:
            return None
        wide, high, left, top = struct.unpack_from(">IIII", self._control, 4)
        inside = wide and high and left + wide <= width and top + high <= height
        return (wide, high, left, top) if inside else None


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Type, start and end of each chunk's body, up to IEND or invalid data; the last may be truncated."""
    at, size = len(_PNG), len(data)
    for _ in range(PARTS):
        if at + 8 > size:
            return
        length, kind = struct.unpack_from(">I4s", data, at)
        if not kind.isalpha() or kind == b"IEND":
            return
        yield kind, at + 8, min(at + 8 + length, size)
        at += 12 + length
    raise _too_many_parts()


def _transparency(body: bytes, depth: int, colours: int) -> bytes:
    """tRNS for pixels as Pillow reads them: 2- and 4-bit greys scaled up, 16-bit colours cut to 8."""
    if colours == 0 and depth in (2, 4):
        return struct.pack(">H", struct.unpack_from(">H", body)[0] * (255 // (2**depth - 1)))
    if colours == 2 and depth == 16:
        return struct.pack(">HHH", *(value >> 8 for value in struct.unpack_from(">HHH", body)))
    return body


def _png_of(head: dict[bytes, bytes], pixels: Sequence[memoryview]) -> bytes:
    parts: list[bytes | memoryview] = [_PNG]
    for kind in (b"IHDR", b"PLTE", b"tRNS"):
        if kind in head:
            body = head[kind]
            parts += [struct.pack(">I", len(body)), kind, body, struct.pack(">I", zlib.crc32(kind + body))]
    # zlib's checksum covers the pixels; Pillow ignores the chunk's.
    parts += [struct.pack(">I", sum(map(len, pixels))), b"IDAT", *pixels, bytes(4)]
    return b"".join([*parts, bytes(4), b"IEND", struct.pack(">I", zlib.crc32(b"IEND"))])


# ---- JPEG ------------------------------------------------------------------------------------------------


def _jpeg(data: bytes) -> Reduced:
    """Return the first picture of the file, up to its end marker, without metadata."""
    kept, at, pixels, scans = [data[:2]], 2, 0, 0
    orientation, layers, progressive = 1, 0, False
    for _ in range(PARTS):
        marker = _JPEG_MARKER.search(data, at)
        if marker is None or data[marker.start() + 1] == 0xD9:
            break
        start, code = marker.start(), data[marker.start() + 1]
        at = start + 2 + struct.unpack_from(">H", data, start + 2)[0]
        if code == 0xDA:
            scans, pixels = scans + 1, pixels or start
            if scans > SCANS:
                raise _too_many_parts()
        elif code in _JPEG_FRAMES:
            precision, layers = data[start + 4], data[start + 9]
            progressive = code in (0xC2, 0xC6, 0xCA, 0xCE)
            if precision != 8 or layers not in (1, 3, 4):
                raise unsupported(f"A JPEG of {layers} × {precision} bits")
        elif code == 0xE1 and data[start + 4 : start + 10] == b"Exif\0\0" and orientation == 1:
            orientation = orientation_of(data[start + 10 : at])
        if not pixels and code not in _JPEG_METADATA:
            kept.append(data[start:at])
    else:
        raise _too_many_parts()
    if not pixels:
        raise truncated()
    overhead = 2.0 * layers if progressive or scans > 1 else 0.0  # the decoder keeps all coefficients
    if marker is not None:
        whole = b"".join([*kept, memoryview(data)[pixels : marker.end()]])
        return Reduced("JPEG", whole, orientation, overhead=overhead)
    body = b"".join([*kept, memoryview(data)[pixels:]]).rstrip(b"\xff")
    noise = bytes(range(1, 200))  # decoded as pixels only if some are missing
    return Reduced("JPEG", body + _JPEG_END, orientation, overhead=overhead, twin=body + noise + _JPEG_END)


# ---- GIF -------------------------------------------------------------------------------------------------


def _gif(data: bytes) -> Reduced:
    """Return the first frame; the decoder ignores what follows it."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    head, at, control = data[:13], 13, b""
    if flags & 128:
        at += 3 << (flags & 7) + 1
    palette = data[13:at]
    parts = 0
    while True:
        found = _GIF_BLOCK.search(data, at)
        if found is None or found[0] == b";":
            raise truncated()
        at = found.start()
        if found[0] == b",":
            break
        end = at + 2
        while size := data[end]:
            end += 1 + size
            parts += 1
        parts += 1
        if parts > PARTS:
            raise _too_many_parts()
        if data[at + 1] == 0xF9:
            control = data[at : end + 1]
        at = end + 1
    left, top, wide, high = struct.unpack_from("<HHHH", data, at + 1)
    if not (wide and high):
        raise ImageError("The picture's first frame is empty.")
    width, height = max(width, left + wide), max(height, top + high)
    screen = head[:6] + struct.pack("<HH", wide, high) + head[10:] + palette + control
    frame = b"," + struct.pack("<HHHH", 0, 0, wide, high) + data[at + 9 :]
    canvas = None if (wide, high) == (width, height) else (width, height, left, top)
    return Reduced("GIF", screen + frame, canvas=canvas)


# ---- the others ------------------------------------------------------------------------------------------


def _tiff(data: bytes) -> Reduced:
    smaller, orientation, overhead = reduced_tiff(data)
    return Reduced("TIFF", smaller, orientation, overhead=overhead)


def _webp(data: bytes) -> Reduced:
    if 8 + struct.unpack_from("<I", data, 4)[0] > len(data):
        raise truncated()
    kind = data[12:16]
    if kind == b"VP8X":
        words = [int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27)]
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        words = [(bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1]
    elif kind == b"VP8 ":
        words = [word & 0x3FFF for word in struct.unpack_from("<HH", data, 26)]
    else:
        raise unsupported("This kind of WebP")
    return Reduced("WEBP", data, size=(words[0], words[1]), overhead=12.5)


def _ppm(data: bytes) -> Reduced:
    if data[1:2] in b"123":
        raise unsupported("A plain-text PPM file")
    if not _PPM_HEADER.match(data[:_PPM_HEADER_BYTES]):
        raise ImageError("The file is not a picture of a known format.", "not_an_image")
    return Reduced("PPM", data)

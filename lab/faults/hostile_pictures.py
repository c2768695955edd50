"""Generate picture files that are cheap to send and expensive to decode; none is in the repository.

``SET`` has one of each kind. At ``share`` 1 a file has the largest size and cost that the service accepts.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from PIL import Image

MOST_BYTES: Final = (32 << 20) - 1024
MEGABYTE: Final = 1 << 20
OK: Final = "ok"
SLOW: Final = "too_slow_to_read"


@dataclass(frozen=True)
class Hostile:
    """``make`` builds the file for a share of the largest size; ``codes`` are the allowed outcomes."""

    name: str
    make: Callable[[float], bytes]
    codes: tuple[str, ...] = (OK,)


# ---- PNG -------------------------------------------------------------------------------------------------


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_head(width: int, height: int, depth: int = 8, colours: int = 2, interlaced: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, interlaced)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)


def zeros(count: int) -> bytes:
    """Return ``count`` zero bytes, compressed about 1000:1."""
    packer, block = zlib.compressobj(9), bytes(MEGABYTE)
    parts = [packer.compress(block[: min(MEGABYTE, left)]) for left in range(count, 0, -MEGABYTE)]
    return b"".join([*parts, packer.flush()])


def rows(width: int, height: int, bits: int, interlaced: int) -> int:
    """Return the bytes of uncompressed pixels, with one filter byte per row."""
    steps = (
        [(0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2), (0, 1, 1, 2)]
        if interlaced
        else [(0, 1, 0, 1)]
    )
    total = 0
    for left, right, top, down in steps:
        wide, high = -(-(width - left) // right), -(-(height - top) // down)
        total += (-(-wide * bits // 8) + 1) * high if wide > 0 and high > 0 else 0
    return total


def large_png(side: int, depth: int = 8, colours: int = 2, more: bytes = b"", interlaced: int = 0) -> bytes:
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    pixels = zeros(rows(side, side, channels * depth, interlaced))
    head = png_head(side, side, depth, colours, interlaced)
    return head + more + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


PIXEL: Final = chunk(b"IDAT", zlib.compress(bytes(4))) + chunk(b"IEND", b"")
TURNED: Final = chunk(
    b"eXIf", b"MM\0*\0\0\0\x08" + struct.pack(">H", 1) + struct.pack(">HHIHH", 0x112, 3, 1, 6, 0) + bytes(4)
)


def many_chunks(one: bytes) -> Callable[[float], bytes]:
    return lambda share: png_head(1, 1) + one * int(share * MOST_BYTES / len(one)) + PIXEL


def text_bomb(kind: bytes, head: bytes) -> Callable[[float], bytes]:
    return lambda share: png_head(1, 1) + chunk(kind, head + zeros(int(share * 1000) * MEGABYTE)) + PIXEL


def side_for(share: float) -> int:
    """Return the side of a square with a share of 64 megapixels."""
    return max(16, int(8000 * share**0.5))


def large(depth: int, colours: int, more: bytes = b"", interlaced: int = 0) -> Callable[[float], bytes]:
    return lambda share: large_png(side_for(share), depth, colours, more, interlaced)


def pixel_bomb(share: float) -> bytes:
    return png_head(1, 1) + chunk(b"IDAT", zeros(int(share * 4000) * MEGABYTE)) + chunk(b"IEND", b"")


# ---- GIF -------------------------------------------------------------------------------------------------

GIF: Final = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
FRAME: Final = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"


def gif(before: bytes, last: bytes = b"\0") -> Callable[[float], bytes]:
    """Build a comment of many blocks, or many blocks, before the frame."""
    return lambda share: GIF + b"!\xfe" + before * int(share * MOST_BYTES / len(before)) + last + FRAME + b";"


# ---- JPEG ------------------------------------------------------------------------------------------------


def saved(mode: str, side: int, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (side, side)).save(file, format, **options)
    return file.getvalue()


def segments(jpeg: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield marker codes and whole segments, a scan with its data."""
    at = 2
    while jpeg[at + 1] != 0xD9:
        code, start = jpeg[at + 1], at
        at += 2 + struct.unpack_from(">H", jpeg, at + 2)[0]
        while code == 0xDA and not (jpeg[at] == 0xFF and jpeg[at + 1] not in (0, *range(0xD0, 0xD8))):
            at += 1
        yield code, jpeg[start:at]


def many_scans(share: float) -> bytes:
    """Repeat the cheapest scan of a progressive picture: each costs a pass over all pixels."""
    parts = list(segments(saved("L", side_for(share), "JPEG", progressive=True)))
    scans = [
        (parts[index - 1][1] if parts[index - 1][0] == 0xC4 else b"", whole)
        for index, (code, whole) in enumerate(parts)
        if code == 0xDA and whole[5 + 2 * whole[4]] > 0
    ]
    tables, scan = min(scans, key=lambda one: len(one[1]))
    whole = b"\xff\xd8" + b"".join(whole for _, whole in parts) + tables
    return whole + scan * (int(share * MOST_BYTES - len(whole)) // len(scan)) + b"\xff\xd9"


# ---- BMP, PPM, TIFF --------------------------------------------------------------------------------------


def bmp(width: int, height: int, data: bytes, compression: int = 1, bits: int = 8) -> bytes:
    palette = bytes(4 << bits)
    size = struct.pack("<IHHI", 54 + len(palette) + len(data), 0, 0, 54 + len(palette))
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 0, 0, 1 << bits, 0)
    return b"BM" + size + info + palette + data


def runs(side: int) -> bytes:
    """Encode all pixels of a square as runs."""
    row = b"".join(bytes((min(255, side - start), 0)) for start in range(0, side, 255))
    return (row + b"\0\0") * side + b"\0\1"


def filled(head: bytes, body: bytes, tail: bytes = b"") -> Callable[[float], bytes]:
    return lambda share: head + body * int(share * MOST_BYTES / len(body)) + tail


Tag = tuple[int, int, int, bytes]  # number, type, count, value


def tiff(tags: Sequence[Tag], data: bytes = b"") -> bytes:
    at = 10 + 12 * len(tags) + 4
    entries, values = b"", b""
    for tag, kind, count, value in sorted(tags):
        entries += struct.pack("<HHI", tag, kind, count)
        if len(value) <= 4:
            entries += value.ljust(4, b"\0")
        else:
            entries += struct.pack("<I", at + len(values))
            values += value
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4) + values + data


def long(tag: int, value: int) -> Tag:
    return tag, 4, 1, struct.pack("<I", value)


def plain(width: int, height: int, compression: int = 1, offset: int = 8, size: int = 1) -> list[Tag]:
    """Return the tags of a grey picture in one strip."""
    fields = {256: width, 257: height, 258: 8, 259: compression, 262: 1, 273: offset, 277: 1, 279: size}
    return [long(tag, value) for tag, value in (fields | {278: height}).items()]


def many_strips(share: float) -> bytes:
    count = int(share * MOST_BYTES / 4)
    tags = [tag for tag in plain(1, min(count, 65_000)) if tag[0] not in (273, 278)]
    return tiff([*tags, (273, 4, count, struct.pack("<I", 8) * count), long(278, 1)])


def many_tags(share: float) -> bytes:
    count = int(share * 65_535)
    entries = b"".join(struct.pack("<HHII", tag, 5, 60_000, 786_500) for tag in range(count))
    return b"II*\0\x08\0\0\0" + struct.pack("<H", count) + entries + bytes(int(share * 30 * MEGABYTE))


def giant_tile(share: float) -> bytes:
    tags = [tag for tag in plain(1, 1, compression=8) if tag[0] not in (273, 278, 279)]
    return tiff([*tags, long(322, 60_000), long(323, 60_000), long(324, 8), long(325, 100)])


def one_large_strip(share: float) -> bytes:
    side = side_for(share)
    data = zeros(side * side)
    empty = tiff(plain(side, side, compression=8))
    return tiff(plain(side, side, compression=8, offset=len(empty), size=len(data)), data)


def turned_with(kind: int, bytes_each: int) -> Callable[[float], bytes]:
    """Build a rotated picture with an unused tag of millions of numbers."""

    def make(share: float) -> bytes:
        count = int(share * MOST_BYTES / bytes_each) - 100
        value = (65_000, kind, count, bytes(count * bytes_each))
        return tiff([*plain(1, 1), (274, 3, 1, struct.pack("<H", 6)), value])

    return make


UNSUPPORTED: Final = ("image_unsupported",)
PARTS: Final = (OK, SLOW)  # sorted by number
SET: Final = (
    Hostile("comment.gif", gif(b"\xff" + b"c" * 255)),
    Hostile("many_comments.gif", gif(b"!\xfe\x01c\0", b"!\xfe\0"), PARTS),
    Hostile("many_controls.gif", gif(b"!\xf9\x04\0\0\0\0\0", b"!\xfe\0"), PARTS),
    Hostile("garbage.gif", lambda share: GIF + bytes(int(share * MOST_BYTES)) + FRAME + b";"),
    Hostile("many_frames.gif", lambda share: GIF + FRAME * int(share * 1_000_000) + b";"),
    Hostile("tiny_chunks.png", many_chunks(chunk(b"abCd", b"")), PARTS),
    Hostile("texts.png", many_chunks(chunk(b"tEXt", b"a\0")), PARTS),
    Hostile("tiny_pixels.png", many_chunks(chunk(b"IDAT", b"")), PARTS),
    Hostile("ztxt.png", text_bomb(b"zTXt", b"a\0\0")),
    Hostile("itxt.png", text_bomb(b"iTXt", b"a\0\1\0\0\0")),
    Hostile("profile.png", text_bomb(b"iCCP", b"a\0\0")),
    Hostile("pixels.png", pixel_bomb),
    Hostile("rgb.png", large(8, 2)),
    Hostile("rgba.png", large(8, 6)),
    Hostile("rgba_turned.png", large(8, 6, TURNED)),
    Hostile("grey_alpha.png", large(8, 4)),
    Hostile("palette.png", large(8, 3, chunk(b"PLTE", bytes(768)) + chunk(b"tRNS", bytes(256)))),
    Hostile("bits.png", large(1, 0)),
    Hostile("deep.png", large(16, 0)),
    Hostile("deep_turned.png", large(16, 0, TURNED)),
    Hostile("deep_rgb.png", large(16, 2)),
    Hostile("deep_rgba.png", large(16, 6)),
    Hostile("interlaced.png", large(8, 2, interlaced=1)),
    Hostile("wide.png", lambda share: png_head(64_000_000, 1) + PIXEL, ("image_too_large",)),
    Hostile("tall.png", lambda share: png_head(1, 64_000_000) + PIXEL, ("image_too_large",)),
    Hostile("scans.jpg", many_scans, (SLOW,)),
    Hostile("rgb.jpg", lambda share: saved("RGB", side_for(share), "JPEG", quality=10)),
    Hostile("cmyk.jpg", lambda share: saved("CMYK", side_for(share), "JPEG", quality=10)),
    Hostile("progressive.jpg", lambda share: saved("RGB", side_for(share), "JPEG", progressive=True)),
    Hostile("rgb.webp", lambda share: saved("RGB", side_for(share), "WEBP", quality=1, method=0)),
    Hostile("rgba.webp", lambda share: saved("RGBA", side_for(share), "WEBP", lossless=True, method=0)),
    Hostile("rgb.avif", lambda share: saved("RGB", side_for(share), "AVIF", speed=10, quality=10)),
    Hostile("digits.ppm", filled(b"P3 3000 1860 255\n", b"0 "), UNSUPPORTED),
    Hostile("bits_as_digits.ppm", filled(b"P1 5700 5800\n", b"1"), UNSUPPORTED),
    Hostile("comments.ppm", filled(b"P3 100 100 255\n", b"#\n"), UNSUPPORTED),
    Hostile("header_comment.ppm", filled(b"P6 #", b"a"), ("not_an_image",)),
    Hostile("header_spaces.ppm", filled(b"P6 ", b" ", b"1 1 255\n\0\0\0"), ("not_an_image",)),
    Hostile("odd_maximum.ppm", lambda share: b"P6 3000 3000 254\n" + bytes(27_000_000), (SLOW,)),
    Hostile("floats.ppm", lambda share: b"Pf\n2800 2900\n-1.0\n" + bytes(4 * 2800 * 2900)),
    Hostile("runs_of_one.bmp", lambda share: bmp(1, 1, b"\x01\0" * int(share * 16_000_000)), UNSUPPORTED),
    Hostile("line_ends.bmp", lambda share: bmp(1, 1, bytes(2) * int(share * 16e6)), UNSUPPORTED),
    Hostile("jumps.bmp", lambda share: bmp(65_000, 900, b"\0\2\xff\xff" * int(share * 2e6)), UNSUPPORTED),
    Hostile("runs.bmp", lambda share: bmp(side_for(share), side_for(share), runs(side_for(share)))),
    Hostile("strips.tif", many_strips, (SLOW,)),
    Hostile("tags.tif", many_tags, (SLOW, "image_truncated", "image_unsupported")),
    Hostile("giant_tile.tif", giant_tile, ("image_unreadable",)),
    Hostile("one_strip.tif", one_large_strip),
    Hostile("rationals.tif", turned_with(5, 8)),
    Hostile("shorts.tif", turned_with(3, 2)),
)

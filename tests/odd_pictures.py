"""Generate unusual picture files that browsers still show."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Final

from PIL import Image, ImageDraw

from lab.faults.hostile_pictures import chunk, png_head, saved, text_bomb

RED: Final = (220, 20, 20)
BLUE: Final = (20, 20, 220)
WIDTH, HEIGHT = 60, 40


def drawing(mode: str = "RGB", size: tuple[int, int] = (WIDTH, HEIGHT)) -> Image.Image:
    """Return a red picture with a blue bar on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] * 3 // 4, 0, *size))
    return image.convert(mode)


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def pixels(image: Image.Image) -> bytes:
    """Return compressed PNG rows, each with a filter byte."""
    row = len(image.tobytes()) // image.height
    data = image.tobytes()
    return zlib.compress(b"".join(b"\0" + data[at : at + row] for at in range(0, len(data), row)))


END: Final = chunk(b"IEND", b"")
STILL: Final = chunk(b"IDAT", pixels(Image.new("RGB", (WIDTH, HEIGHT), "yellow")))


def control(number: int, width: int, height: int, left: int = 0, top: int = 0) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, width, height, left, top, 1, 10, 0, 0))


def frame(number: int, image: Image.Image) -> bytes:
    return chunk(b"fdAT", struct.pack(">I", number) + pixels(image))


def animated(*parts: bytes, count: int = 2) -> bytes:
    return png_head(WIDTH, HEIGHT) + chunk(b"acTL", struct.pack(">II", count, 0)) + b"".join(parts) + END


def frame_beside_the_still() -> bytes:
    """Build an APNG whose IDAT is not part of the animation and whose first frame covers a part."""
    small = drawing(size=(40, 20))
    return animated(STILL, control(0, 40, 20, 10, 5), frame(1, small), control(2, 40, 20), frame(3, small))


def frames_from_the_still() -> bytes:
    body = chunk(b"IDAT", pixels(drawing()))
    return animated(control(0, WIDTH, HEIGHT), body, control(1, 8, 8), frame(2, Image.new("RGB", (8, 8))))


def with_damaged(kind: bytes, body: bytes) -> bytes:
    """Return a chunk with a wrong checksum."""
    damaged = bytearray(chunk(kind, body))
    damaged[-1] ^= 0xFF
    return png_head(WIDTH, HEIGHT) + bytes(damaged) + chunk(b"IDAT", pixels(drawing())) + END


def with_text(kind: bytes, head: bytes) -> bytes:
    bomb = text_bomb(kind, head)(0.003)  # 3 MB of text
    body = bomb[len(png_head(1, 1)) :]
    (length,) = struct.unpack_from(">I", body)
    return png_head(WIDTH, HEIGHT) + body[: 12 + length] + chunk(b"IDAT", pixels(drawing())) + END


def without_an_end(**options: object) -> bytes:
    """Build a large truncated file; browsers skip the last blocks."""
    return encoded(drawing(size=(900, 1700)), "JPEG", quality=90, **options)[:-2]


def small_first_frame() -> bytes:
    """Build a GIF whose first frame covers a part of the screen."""
    data = bytearray(encoded(drawing("P", (30, 20)), "GIF"))
    struct.pack_into("<HH", data, 6, WIDTH, HEIGHT)
    at = data.index(b",", 13 + (3 << (data[10] & 7) + 1))
    struct.pack_into("<HH", data, at + 1, 20, 10)
    return bytes(data)


def grey_png(depth: int, transparent: int) -> bytes:
    """Build a grey picture with several pixels per byte and one transparent level."""
    row = bytes((0xE4, 0x1B)) if depth == 2 else bytes((0x01, 0xF5, 0x5F, 0x10))
    body = zlib.compress((b"\0" + row) * 8)
    return (
        png_head(8, 8, depth, 0) + chunk(b"tRNS", struct.pack(">H", transparent)) + chunk(b"IDAT", body) + END
    )


def transparent_ellipse(mode: str, format: str, **options: object) -> bytes:
    image = Image.new("RGBA", (WIDTH, HEIGHT), (*RED, 0))
    ImageDraw.Draw(image).ellipse((15, 5, 45, 35), fill=(*BLUE, 128))
    return encoded(image.convert(mode), format, **options)


def exif(orientation: int, *others: tuple[int, int, int, bytes]) -> bytes:
    """Return an EXIF block; the other tags are (number, type, count, value of 4 bytes)."""
    tags = sorted([(0x112, 3, 1, struct.pack("<HH", orientation, 0)), *others])
    entries = b"".join(struct.pack("<HHI", *tag[:3]) + tag[3] for tag in tags)
    return b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + entries + bytes(4)


def turned(block: bytes) -> bytes:
    data = encoded(drawing(), "JPEG", quality=95)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + data[2:]


ODD: Final[Mapping[str, Callable[[], bytes]]] = {
    "frame beside the still.png": frame_beside_the_still,
    "frames from the still.png": frames_from_the_still,
    "damaged text.png": lambda: with_damaged(b"tEXt", b"a\0b"),
    "damaged time.png": lambda: with_damaged(b"tIME", bytes(7)),
    "large ztxt.png": lambda: with_text(b"zTXt", b"a\0\0"),
    "large itxt.png": lambda: with_text(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"),
    "cut after the pixels.png": lambda: png_head(WIDTH, HEIGHT) + chunk(b"IDAT", pixels(drawing())),
    "grey of 2 bits.png": lambda: grey_png(2, 2),
    "grey of 4 bits.png": lambda: grey_png(4, 5),
    "turned.png": lambda: encoded(drawing(), "PNG", exif=exif(6)),
    "alpha.png": lambda: transparent_ellipse("RGBA", "PNG"),
    "palette.png": lambda: encoded(drawing("P"), "PNG", transparency=drawing("P").getpixel((0, 0))),
    "no end.jpg": without_an_end,
    "no end progressive.jpg": lambda: without_an_end(progressive=True),
    "rubbish behind.jpg": lambda: encoded(drawing(), "JPEG", quality=90) + bytes(range(256)) * 8,
    "turned.jpg": lambda: turned(exif(8)),
    "turned with an odd tag.jpg": lambda: turned(exif(3, (0x8769, 4, 1, b"\xff\xff\xff\xff"))),
    "small first frame.gif": small_first_frame,
    "alpha.webp": lambda: transparent_ellipse("RGBA", "WEBP", lossless=True),
    "alpha.avif": lambda: transparent_ellipse("RGBA", "AVIF", quality=100),
    "palette.bmp": lambda: encoded(drawing("P"), "BMP"),
    "grey.jpg": lambda: saved("L", 40, "JPEG"),
}

"""HEIC files for tests, made by pillow-heif, and changed ones."""

from __future__ import annotations

import io
import struct
from collections.abc import Sequence

import numpy as np
import pillow_heif
from PIL import Image

RED, BLUE = (200, 30, 30), (30, 30, 200)


def halves(size: tuple[int, int] = (128, 64)) -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image


def heic(*images: Image.Image, orientation: int = 1, **options: object) -> bytes:
    """Return a file; an orientation becomes a property of it, and EXIF says 1."""
    file, made = io.BytesIO(), pillow_heif.HeifFile()
    for image in images:
        made.add_from_pillow(image)
    if orientation > 1:
        exif = Image.Exif()
        exif[0x0112] = orientation
        made.info["exif"] = exif.tobytes()
    made.save(file, **{"quality": 100, "chroma": 444, **options})
    return file.getvalue()


def deep(mode: str, size: tuple[int, int] = (128, 64)) -> bytes:
    """Return ``halves`` with 12 bits per channel; mode is RGB, RGBA or I."""
    image = halves(size).convert({"I": "L"}.get(mode, mode))
    values = np.asarray(image).astype(np.uint16) * 257
    file, before = io.BytesIO(), pillow_heif.options.SAVE_HDR_TO_12_BIT
    pillow_heif.options.SAVE_HDR_TO_12_BIT = True
    try:
        pillow_heif.encode(f"{mode};16", size, values.tobytes(), file, quality=100, chroma=444)
    finally:
        pillow_heif.options.SAVE_HDR_TO_12_BIT = before
    return file.getvalue()


def declaring(data: bytes, width: int, height: int) -> bytes:
    """Return the file with every picture's size replaced in the boxes; the coded pixels keep theirs."""
    changed = bytearray(data)
    at = changed.find(b"ispe")
    while at > 0:
        struct.pack_into(">II", changed, at + 8, width, height)
        at = changed.find(b"ispe", at + 4)
    return bytes(changed)


def box(kind: bytes, *content: bytes) -> bytes:
    body = b"".join(content)
    return struct.pack(">I", 8 + len(body)) + kind + body


def ftyp(brands: Sequence[bytes] = (b"heic", b"mif1", b"heic")) -> bytes:
    return box(b"ftyp", brands[0], bytes(4), *brands[1:])

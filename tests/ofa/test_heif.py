"""HEIC pictures: their boxes before a decoder sees them, and their pixels."""

from __future__ import annotations

import struct
import sys
from collections.abc import Sequence
from typing import Any

import pytest
from PIL import Image

from ofa import heif, picture
from ofa.errors import ImageError
from tests.heic import BLUE, RED, box, declaring, deep, ftyp, halves, heic

PLAIN = heic(halves())


def code_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        picture.read(data).pixels()
    return caught.value.code


def is_like(pixel: Any, colour: tuple[int, int, int]) -> bool:
    return max(abs(one - other) for one, other in zip(pixel, colour, strict=True)) < 12


def test_a_picture_is_read() -> None:
    header = picture.read(PLAIN)
    assert header.size == (128, 64)
    pixels = header.pixels()
    assert (pixels.mode, pixels.size) == ("RGB", (128, 64))
    assert is_like(pixels.getpixel((5, 16)), RED)
    assert is_like(pixels.getpixel((120, 16)), BLUE)


def test_a_picture_is_cropped_as_its_properties_say() -> None:
    """The coder pads it to whole blocks, and the size that counts is the padded one."""
    header = picture.read(heic(halves((71, 33))))
    assert (header.size, header.pixels().size) == ((72, 64), (71, 33))


@pytest.mark.parametrize(
    ("brands", "expected"),
    [
        ((b"heic", b"mif1"), True),
        ((b"heix",), True),
        ((b"hevc", b"msf1"), True),
        ((b"mif1", b"miaf", b"heic"), True),
        ((b"mif1", b"miaf"), False),
        ((b"mif1", b"heic", b"avif"), False),
        ((b"avif", b"heic"), False),
        ((b"isom", b"heic"), False),
    ],
)
def test_the_brands_decide_the_decoder(brands: Sequence[bytes], expected: bool) -> None:
    assert heif.is_heif(ftyp(brands) + bytes(64)) is expected


@pytest.mark.parametrize(
    ("orientation", "corners"),  # top left, top right, bottom right
    [
        *[(1, (RED, BLUE, BLUE)), (2, (BLUE, RED, RED)), (3, (BLUE, RED, RED)), (4, (RED, BLUE, BLUE))],
        *[(5, (RED, RED, BLUE)), (6, (RED, RED, BLUE)), (7, (BLUE, BLUE, RED)), (8, (BLUE, BLUE, RED))],
    ],
)
def test_the_properties_turn_the_picture_once(
    orientation: int, corners: Sequence[tuple[int, int, int]]
) -> None:
    header = picture.read(heic(halves(), orientation=orientation))
    assert header.size == (128, 64)
    pixels = header.pixels()
    assert pixels.size == ((128, 64) if orientation < 5 else (64, 128))
    right, bottom = pixels.width - 4, pixels.height - 4
    for place, colour in zip([(3, 3), (right, 3), (right, bottom)], corners, strict=True):
        assert is_like(pixels.getpixel(place), colour), place


def test_the_orientation_in_exif_is_ignored_as_browsers_do() -> None:
    exif = Image.Exif()
    exif[0x0112] = 1
    image = halves()
    image.info["exif"] = exif.tobytes()
    data = heic(image)
    entry = struct.Struct("<HHIH" if b"Exif\0\0II" in data else ">HHIH")
    found = entry.pack(0x0112, 3, 1, 1)
    assert data.count(found) == 1
    turned = data.replace(found, entry.pack(0x0112, 3, 1, 6))
    assert picture.read(turned).pixels().tobytes() == picture.read(data).pixels().tobytes()


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    image = halves().convert(mode)
    alpha = Image.new("L", image.size, 255)
    alpha.paste(0, (0, 0, 30, 64))
    image.putalpha(alpha)
    pixels = picture.read(heic(image)).pixels()
    assert is_like(pixels.getpixel((5, 16)), (255, 255, 255))
    assert not is_like(pixels.getpixel((120, 16)), (255, 255, 255))


def test_of_several_pictures_the_primary_one_is_read() -> None:
    red, blue = Image.new("RGB", (64, 64), RED), Image.new("RGB", (64, 64), BLUE)
    assert is_like(picture.read(heic(red, blue)).pixels().getpixel((9, 9)), RED)
    assert is_like(picture.read(heic(red, blue, primary_index=1)).pixels().getpixel((9, 9)), BLUE)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I"])
def test_twelve_bits_are_scaled_to_eight(mode: str) -> None:
    pixels = picture.read(deep(mode)).pixels()
    grey = tuple([round(0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])] * 3)
    assert is_like(pixels.getpixel((5, 16)), RED if mode != "I" else grey)


def test_a_grid_of_tiles_has_the_size_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pillow_heif.options.GRID_TILE_SIZE", 64)
    data = heic(halves((200, 100)), orientation=6)
    assert b"grid" in data
    header = picture.read(data)
    assert (header.size, header.pixels().size) == ((200, 100), (100, 200))


# ---- refused -----------------------------------------------------------------------------------------------


def test_without_pillow_heif_the_error_says_that_it_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(ImageError) as caught:
        picture.read(PLAIN)
    assert (caught.value.code, caught.value.facts) == ("image_unsupported", {"missing_heic": 1})
    assert code_of(PLAIN[:100]) == "image_unsupported"  # whatever else is wrong with the file


def test_a_huge_picture_is_refused_before_a_decoder_is_given_the_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def opened(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr("pillow_heif.HeifImageFile", opened)
    with pytest.raises(ImageError) as caught:
        picture.read(declaring(PLAIN, 30_000, 30_000))
    assert (caught.value.code, caught.value.facts["width"]) == ("image_too_large", 30_000)
    assert code_of(declaring(PLAIN, 0, 0)) == "not_an_image"
    assert code_of(declaring(PLAIN, 1, 2**32 - 1)) == "image_too_large"


def test_pixels_larger_than_declared_are_refused() -> None:
    assert code_of(declaring(heic(halves((640, 480)), quality=50), 64, 32)) == "image_unreadable"


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_a_truncated_file_is_called_so(share: float) -> None:
    assert code_of(PLAIN[: int(len(PLAIN) * share)]) == "image_truncated"


PITM = box(b"pitm", bytes(4), b"\0\1")
ISPE = box(b"ispe", bytes(4), struct.pack(">II", 64, 32))
IPMA = box(b"ipma", bytes(4), struct.pack(">I", 1), b"\0\1\1\1")


@pytest.mark.parametrize(
    ("meta", "code"),
    [
        (None, "image_unsupported"),  # a video
        ([], "image_unreadable"),
        ([PITM], "image_unreadable"),
        ([PITM, box(b"iprp")], "image_unreadable"),
        ([PITM, box(b"iprp", box(b"ipco", ISPE))], "image_unreadable"),
        ([PITM, box(b"iprp", box(b"ipco"), IPMA)], "image_unreadable"),
        ([PITM, box(b"iprp", box(b"ipco", ISPE[:-1] + b"\xff"), IPMA)], "image_unreadable"),
        ([PITM, box(b"iprp", box(b"ipco", ISPE), IPMA)], "image_unreadable"),  # a size, but no pixels
        ([PITM, box(b"iprp", b"\0\0\0\3abcd")], "image_unreadable"),
        ([PITM, b"\0\0\xff\xffiprp"], "image_unreadable"),
        ([PITM, box(b"iprp", box(b"ipma", bytes(4), b"\xff\xff\xff\xff"))], "too_slow_to_read"),
        ([PITM, box(b"iprp", box(b"ipma", bytes(4), b"\0\0\0\2", bytes(3)))], "image_unreadable"),
        ([box(b"free")] * 5000, "too_slow_to_read"),
    ],
)
def test_hostile_boxes_are_refused(meta: list[bytes] | None, code: str) -> None:
    content = box(b"moov") if meta is None else box(b"meta", bytes(4), *meta)
    assert code_of(ftyp() + content) == code


def test_a_box_of_64_bits_is_measured() -> None:
    meta = PLAIN.index(b"meta") - 4
    large = b"\0\0\0\1free" + struct.pack(">Q", 16)
    # Before the boxes with offsets into the file, so only the outline can be compared.
    assert heif.outline(PLAIN[:meta] + large + PLAIN[meta:])[:2] == (128, 64)
    endless = b"\0\0\0\1free" + struct.pack(">Q", 2**63)
    assert code_of(PLAIN + endless) == "image_truncated"

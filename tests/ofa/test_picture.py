"""Unusual files are decoded as browsers do; files that would be decoded wrongly are refused with a code."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lab.faults.hostile_pictures import bmp, chunk, plain, png_head, tiff
from ofa.errors import ImageError
from ofa.image import open_picture
from ofa.picture import of_image, read, to_rgb
from tests.odd_pictures import (
    BLUE,
    END,
    HEIGHT,
    ODD,
    RED,
    WIDTH,
    animated,
    control,
    drawing,
    encoded,
    exif,
    frame,
    pixels,
    transparent_ellipse,
)

WHITE = (255, 255, 255)


def code_of(data: bytes) -> str:
    """``ok``, or why the picture is refused."""
    try:
        read(data).pixels()
    except ImageError as error:
        return error.code
    return "ok"


def like(pixel: object, colour: tuple[int, int, int], tolerance: int = 30) -> bool:
    return bool(np.abs(np.subtract(pixel, colour)).max() <= tolerance)  # type: ignore[call-overload]


@pytest.mark.parametrize("name", ODD)
def test_an_odd_picture_is_read(name: str) -> None:
    """tests/browser compares each with a real browser."""
    header = read(ODD[name]())
    image = header.pixels()
    assert image.mode == "RGB"
    assert sorted(image.size) == sorted(header.size)


# ---- PNG -------------------------------------------------------------------------------------------------


def test_the_first_frame_of_an_animation_is_read_and_not_the_still_beside_it() -> None:
    image = read(ODD["frame beside the still.png"]()).pixels()
    assert image.size == (WIDTH, HEIGHT)
    assert [image.getpixel(place) for place in ((2, 2), (15, 10), (45, 10))] == [WHITE, RED, BLUE]


@pytest.mark.parametrize(
    "parts",
    [
        [frame(0, drawing())],  # no control
        [control(1, WIDTH, HEIGHT), frame(2, drawing())],  # begins with the wrong number
        [control(0, WIDTH, HEIGHT), frame(5, drawing())],  # a gap
        [control(0, 2 * WIDTH, HEIGHT), frame(1, drawing())],  # larger than the picture
        [control(0, 0, 0), frame(1, drawing())],
        [control(0, WIDTH, HEIGHT)],  # no frame
    ],
)
def test_an_animation_out_of_order_leaves_the_still(parts: list[bytes]) -> None:
    still = chunk(b"IDAT", pixels(Image.new("RGB", (WIDTH, HEIGHT), "lime")))
    assert read(animated(still, *parts)).pixels().getpixel((5, 5)) == (0, 255, 0)


def test_the_transparent_level_of_a_picture_of_few_greys_is_white() -> None:
    two, four = read(ODD["grey of 2 bits.png"]()).pixels(), read(ODD["grey of 4 bits.png"]()).pixels()
    assert [two.getpixel((x, 0)) for x in range(4)] == [WHITE, WHITE, (85, 85, 85), (0, 0, 0)]
    assert [four.getpixel((x, 0)) for x in range(4)] == [(0, 0, 0), (17, 17, 17), WHITE, WHITE]


def test_a_transparent_colour_of_16_bits_is_white() -> None:
    row = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 0x8000, 0x8000, 0x8000)
    body = chunk(b"tRNS", row[:6]) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + END
    image = read(png_head(2, 1, 16, 2) + body).pixels()
    assert [image.getpixel((x, 0)) for x in (0, 1)] == [WHITE, (128, 128, 128)]


@pytest.mark.parametrize("kind", [b"IHDR", b"PLTE"])
def test_a_damaged_header_is_reported_as_damage_not_as_another_format(kind: bytes) -> None:
    data = bytearray(encoded(drawing("P"), "PNG"))
    data[data.index(kind) + 6] ^= 0xFF
    assert code_of(bytes(data)) == "image_unreadable"


def test_a_picture_that_is_cut_in_its_pixels_is_truncated() -> None:
    noise = Image.effect_noise((64, 64), 90)
    for data in (encoded(noise, "PNG"), encoded(noise, "JPEG"), encoded(noise, "JPEG", progressive=True)):
        assert code_of(data) == "ok"
        for share in (0.5, 0.9):
            assert code_of(data[: int(len(data) * share)]) == "image_truncated"


# ---- JPEG, GIF, BMP, PPM, TIFF ---------------------------------------------------------------------------


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_that_lacks_nothing_but_its_end_has_all_its_pixels(progressive: bool) -> None:
    whole = encoded(Image.effect_noise((90, 70), 90).convert("RGB"), "JPEG", progressive=progressive)
    assert read(whole[:-2]).pixels().tobytes() == read(whole).pixels().tobytes()


def test_only_the_first_picture_of_a_jpeg_file_counts() -> None:
    """A motion photograph, a gain map and the second eye lie behind it."""
    first, second = (encoded(Image.new("RGB", (30, 20), colour), "JPEG") for colour in (RED, BLUE))
    assert like(read(first + second).pixels().getpixel((5, 5)), RED)


def test_what_a_gif_s_first_frame_leaves_open_is_white() -> None:
    image = read(ODD["small first frame.gif"]()).pixels()
    assert image.size == (WIDTH, HEIGHT)
    assert image.getpixel((5, 5)) == WHITE
    assert like(image.getpixel((22, 12)), RED, 60)  # GIF has 256 colours
    assert like(image.getpixel((48, 28)), BLUE, 60)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("RLE4 with an odd run", bmp(5, 1, b"\0\5\x12\x12\x10\0\0\1", compression=2, bits=4)),
        ("RLE8 with a jump", bmp(8, 2, b"\2\1\0\2\2\0\4\1\0\0\x08\1\0\1")),
        ("RLE8 with a short row", bmp(8, 2, b"\2\1\0\0\x08\1\0\1")),
        ("RLE8 that ends early", bmp(8, 2, b"\x08\1\0\1")),
        ("a JPEG in a BMP", bmp(8, 2, bytes(64), compression=4)),
        ("2 bits", bmp(8, 2, bytes(64), compression=0, bits=2)),
        ("a PPM of digits", b"P3 1 1 255\n1 2 3\n"),
        ("a TIFF of 12 bits", tiff([*[t for t in plain(8, 1) if t[0] != 258], (258, 3, 1, b"\x0c\0")])),
        ("a TIFF compressed otherwise", tiff(plain(8, 1, compression=34712), bytes(64))),
        ("an integer beyond 16 bits", encoded(Image.new("I", (4, 4), 70_000), "TIFF")),
        ("a float beyond 16 bits", encoded(Image.new("F", (4, 4), 1e9), "TIFF")),
    ],
)
def test_what_would_be_read_wrongly_is_not_supported(name: str, data: bytes) -> None:
    assert code_of(data) == "image_unsupported"


def test_runs_that_cover_a_picture_and_a_palette_too_long_are_read() -> None:
    assert code_of(bmp(4, 2, b"\4\1\0\0\4\2\0\0\0\1")) == "ok"
    long_palette = bytearray(bmp(4, 1, bytes(4 + 4 * 44), compression=0))
    struct.pack_into("<I", long_palette, 46, 300)
    struct.pack_into("<I", long_palette, 10, 54 + 4 * 300)
    assert code_of(bytes(long_palette) + bytes(4)) == "ok"


@pytest.mark.parametrize(("value", "grey"), [(0, 0), (200, 200), (32896, 128), (65535, 255)])
def test_a_tiff_of_32_bits_is_scaled(value: int, grey: int) -> None:
    assert read(encoded(Image.new("I", (4, 4), value), "TIFF")).pixels().getpixel((1, 1)) == (grey,) * 3


@pytest.mark.parametrize("options", [{}, {"big_tiff": True}, {"compression": "tiff_lzw"}])
def test_a_tiff_keeps_its_pixels_and_loses_its_metadata(options: dict[str, object]) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (30, 50, 3), dtype=np.uint8))
    data = encoded(noise, "TIFF", tiffinfo={270: "x" * 5000, 274: 6, 33432: "y" * 900}, **options)
    header = read(data)
    assert header.size == (50, 30)
    assert header.pixels().tobytes() == noise.transpose(Image.Transpose.ROTATE_270).tobytes()


def test_unsupported_formats_are_refused() -> None:
    for data in (b"", b"hello", encoded(drawing(), "ICO"), encoded(drawing(), "JPEG2000")):
        assert code_of(data) == "not_an_image"


# ---- orientation and transparency ------------------------------------------------------------------------


def test_orientation_metadata_that_browsers_ignore_is_ignored() -> None:
    """XMP and ImageMagick's profile contain an orientation as well."""
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    info.add_text("Raw profile type exif", "\nexif\n 26\n" + exif(6).hex())
    assert read(encoded(drawing(), "PNG", pnginfo=info)).pixels().size == (WIDTH, HEIGHT)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_laid_on_white_at_full_size_and_to_the_last_bit(mode: str) -> None:
    """Strips give the same result as compositing the whole picture."""
    values = np.random.default_rng(2).integers(0, 255, (700, 1700, 4), dtype=np.uint8)
    image = Image.fromarray(values).convert(mode)
    ground = Image.new("RGBA", image.size, "white")
    whole = Image.alpha_composite(ground, image.convert("RGBA")).convert("RGB")
    assert to_rgb(image).tobytes() == whole.tobytes()


def test_the_command_line_and_a_pil_picture_are_read_alike(tmp_path: Path) -> None:
    data = transparent_ellipse("RGBA", "PNG")
    path = tmp_path / "a.png"
    path.write_bytes(data)
    with Image.open(io.BytesIO(data)) as image:
        assert of_image(image).tobytes() == open_picture(path).tobytes() == read(data).pixels().tobytes()
    assert open_picture(path).getpixel((0, 0)) == WHITE
    assert open_picture(path, transparency="dropped").getpixel((0, 0)) == RED

"""Unusual and damaged files through real readers."""

from __future__ import annotations

import io
import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from service.contract.errors import InputError
from service.intake.image import Picture, converted, opened
from service.intake.readers import Readers
from tests.fakes import PATIENCE

RED, BLUE = (220, 20, 20), (20, 20, 220)
SIDE = 40


@pytest.fixture(scope="module", autouse=True)
def readers() -> Iterator[Readers]:
    readers = Readers(count=1)
    readers.start()
    _READERS.append(readers)
    yield readers
    _READERS.remove(readers)
    readers.stop()


_READERS: list[Readers] = []


def read(
    source: object, *, max_bytes: int = 1_000_000, max_pixels: int = 1_000_000, side: int = SIDE
) -> Picture:
    """The square that the model sees."""
    if isinstance(source, Image.Image):
        return converted(source, side=side, max_pixels=max_pixels)
    with opened(source, max_bytes) as file:
        deadline = time.monotonic() + PATIENCE
        return _READERS[0].read(file, side=side, max_pixels=max_pixels, deadline=deadline)


def refused(source: object, **limits: int) -> InputError:
    with pytest.raises(InputError) as caught:
        read(source, **limits)
    assert caught.value.remedy
    return caught.value


def halves(mode: str = "RGB", size: tuple[int, int] = (40, 20)) -> Image.Image:
    """Left red, right blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return image.convert(mode)


def is_like(pixel: object, colour: tuple[int, int, int], tolerance: int = 40) -> bool:
    return bool(np.abs(np.subtract(pixel, colour)).max() <= tolerance)  # type: ignore[call-overload]


Save = Callable[..., Path]


@pytest.fixture
def save(tmp_path: Path) -> Save:
    def _save(image: Image.Image, name: str, **more: object) -> Path:
        image.save(tmp_path / name, **more)
        return tmp_path / name

    return _save


def png_header(width: int, height: int) -> bytes:
    """A PNG with a declared size and almost no data."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


# ---- accepted --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp", "a.gif", "a.tiff", "a.avif", "a.ppm"])
def test_every_format_of_the_list_is_read(name: str, save: Save) -> None:
    picture = read(save(halves(), name))
    assert (picture.image.mode, picture.image.size, picture.size) == ("RGB", (SIDE, SIDE), (40, 20))
    assert is_like(picture.image.getpixel((5, 20)), RED)
    assert is_like(picture.image.getpixel((35, 20)), BLUE)


def test_a_plain_picture_has_the_pixels_that_pillow_reads_and_resizes(save: Save) -> None:
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 255, (97, 131, 3), dtype=np.uint8))
    for name in ("a.png", "a.jpg", "a.webp", "a.bmp", "a.tiff", "a.avif", "a.ppm"):
        path = save(noise, name)
        with Image.open(path) as image:
            expected = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        assert read(path).image.tobytes() == expected.tobytes(), name


def test_a_path_may_be_a_string_and_the_extension_may_be_wrong(save: Save, tmp_path: Path) -> None:
    path = save(halves(), "a.png").rename(tmp_path / "holiday.jpg")
    assert is_like(read(str(path)).image.getpixel((5, 20)), RED)


@pytest.mark.parametrize(
    ("orientation", "corners"),  # top left, top right, bottom right
    [
        *[(1, (RED, BLUE, BLUE)), (2, (BLUE, RED, RED)), (3, (BLUE, RED, RED)), (4, (RED, BLUE, BLUE))],
        *[(5, (RED, RED, BLUE)), (6, (RED, RED, BLUE)), (7, (BLUE, BLUE, RED)), (8, (BLUE, BLUE, RED))],
    ],
)
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif", "a.tiff"])
def test_a_photo_is_turned_as_its_camera_says(
    name: str, orientation: int, corners: Sequence[tuple[int, int, int]], save: Save
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    picture = read(save(halves(), name, exif=exif, quality=95))
    assert picture.size == (40, 20)
    far = SIDE - 5
    for place, colour in zip([(4, 4), (far, 4), (far, far)], corners, strict=True):
        assert is_like(picture.image.getpixel(place), colour), place


def test_an_animated_picture_is_its_first_frame(save: Save) -> None:
    frames = [Image.new("RGB", (10, 10), colour) for colour in (RED, BLUE)]
    path = save(frames[0], "a.gif", save_all=True, append_images=frames[1:], duration=50)
    assert is_like(read(path).image.getpixel((5, 5)), RED)


def test_cmyk_is_read_as_its_colours(save: Save) -> None:
    assert is_like(read(save(halves("CMYK"), "a.jpg", quality=95)).image.getpixel((5, 20)), RED, 60)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparent_parts_are_white_whatever_colour_lies_under_them(mode: str) -> None:
    image = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    image.paste((0, 0, 0, 255), (0, 0, 5, 10))
    picture = read(image.convert(mode) if mode != "PA" else image.convert("P").convert("PA"), side=10)
    if mode == "PA":  # the palette keeps no alpha here; what counts is that the mode is read
        assert picture.image.mode == "RGB"
        return
    assert picture.image.getpixel((2, 5)) == (0, 0, 0)
    assert picture.image.getpixel((8, 5)) == (255, 255, 255)


def test_half_transparent_is_mixed_with_white_and_a_transparent_palette_colour_is_white(save: Save) -> None:
    assert read(Image.new("RGBA", (4, 4), (0, 0, 0, 128))).image.getpixel((1, 1)) == (127, 127, 127)
    palette = halves().quantize(2)
    picture = read(save(palette, "a.png", transparency=palette.getpixel((0, 0))))
    assert picture.image.getpixel((5, 20)) == (255, 255, 255)
    assert is_like(picture.image.getpixel((35, 20)), BLUE)


def test_a_16_bit_picture_is_scaled_and_its_transparent_value_is_white(tmp_path: Path) -> None:
    deep = Image.fromarray(np.array([[0, 65535], [32896, 257]], dtype=np.uint16))
    deep.save(tmp_path / "a.png")
    assert np.asarray(read(tmp_path / "a.png", side=2).image)[..., 0].tolist() == [[0, 255], [128, 1]]
    deep.save(tmp_path / "b.png", transparency=32896)
    assert np.asarray(read(tmp_path / "b.png", side=2).image)[..., 0].tolist() == [[0, 255], [255, 1]]


def test_a_pil_image_is_copied_so_that_its_owner_may_change_it() -> None:
    mine = halves()
    picture = read(mine)
    mine.paste(BLUE, (0, 0, 40, 20))
    assert is_like(picture.image.getpixel((5, 20)), RED)


# ---- refused ---------------------------------------------------------------------------------------------


def test_no_picture_is_named_as_such(tmp_path: Path) -> None:
    assert refused(None).code == "no_image"
    assert refused("").code == "no_image"
    assert refused(tmp_path / "none.png").code == "no_image"
    assert refused(7).code == "not_an_image"
    assert refused("a\0b").code == "image_unreadable"


def test_input_that_is_not_a_picture_is_refused(tmp_path: Path) -> None:
    for name, data in [("a.png", b"hello"), ("b.jpg", b""), ("c.gif", b"%PDF-1.7 ..."), ("d.svg", b"<svg/>")]:
        (tmp_path / name).write_bytes(data)
        assert refused(tmp_path / name).code == "not_an_image"
    assert refused(tmp_path).code == "not_an_image"


def test_a_format_off_the_list_is_refused_though_pillow_could_read_it(save: Save) -> None:
    assert refused(save(halves(), "a.ico")).code == "not_an_image"
    assert refused(save(halves(), "a.jp2")).code == "not_an_image"


def test_a_named_pipe_or_a_device_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert refused(tmp_path / "pipe.png").code == "not_an_image"
    assert refused("/dev/zero").code == "not_an_image"


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.gif", "a.tiff", "a.bmp"])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_truncated_picture_is_refused_and_said_to_be_cut_or_damaged(
    name: str, share: float, save: Save
) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path = save(noise, name)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert refused(path).code in {"image_truncated", "image_unreadable", "not_an_image"}


def test_a_truncated_png_or_jpeg_is_called_truncated(save: Save) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for name in ("a.png", "a.jpg"):
        path = save(noise, name)
        path.write_bytes(path.read_bytes()[:-500])
        assert refused(path).code == "image_truncated"


def test_too_many_bytes_are_refused_before_the_file_is_read(save: Save) -> None:
    path = save(halves(), "a.png")
    size = path.stat().st_size
    assert read(path, max_bytes=size)
    error = refused(path, max_bytes=size - 1)
    assert (error.code, error.facts) == ("image_bytes_too_large", {"bytes": size, "limit": size - 1})


@pytest.mark.parametrize("side", [1001, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_by_its_header_alone(side: int, tmp_path: Path) -> None:
    """It holds so little that decoding would end in another error."""
    (tmp_path / "bomb.png").write_bytes(png_header(side, side))
    error = refused(tmp_path / "bomb.png")
    assert (error.code, error.facts["limit"]) == ("image_too_large", 1_000_000)


def test_a_side_is_limited_as_well(tmp_path: Path) -> None:
    for width, height in ((70_000, 1), (1, 70_000)):
        (tmp_path / "line.png").write_bytes(png_header(width, height))
        error = refused(tmp_path / "line.png")
        assert (error.code, error.facts) == ("image_too_large", {"width": width, "height": height})


def test_a_damaged_picture_is_refused_wherever_the_damage_is(save: Save) -> None:
    """Change every byte of a small picture in turn: the result is a picture or an InputError."""
    for name in ("a.png", "a.gif", "a.jpg", "a.bmp", "a.tiff"):
        path = save(halves(size=(12, 8)), name)
        data = bytearray(path.read_bytes())
        refusals: set[str] = set()
        for place in range(0, len(data), max(1, len(data) // 80)):
            spoilt = bytes(data[:place]) + bytes([data[place] ^ 0xFF]) + bytes(data[place + 1 :])
            path.write_bytes(spoilt)
            try:
                read(path)
            except InputError as error:
                refusals.add(error.code)
        assert refusals, f"no damage to {name} was noticed"
        assert refusals <= {
            *("not_an_image", "image_unsupported", "image_unreadable", "image_truncated", "image_too_large"),
        }


def test_a_closed_pil_image_is_an_input_error() -> None:
    buffer = io.BytesIO()
    halves().save(buffer, "PNG")
    image = Image.open(buffer)
    image.close()
    assert refused(image).code == "image_unreadable"

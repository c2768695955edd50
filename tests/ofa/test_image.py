"""Conversion of pictures to pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ofa.errors import ImageError
from ofa.image import open_picture, to_pixels, to_rgb

HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def is_like(pixel: object, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(pixel, colour)).max() <= 25)  # type: ignore[call-overload]


def test_pixels_are_normalised_per_channel() -> None:
    pixels = to_pixels(Image.new("RGB", (3, 5), (255, 0, 51)), 8, (0.5, 0.5, 0.1), (0.5, 0.25, 0.1))
    assert pixels.shape == (3, 8, 8)
    assert pixels.dtype == torch.float32
    assert torch.allclose(pixels[:, 0, 0], torch.tensor([1.0, -2.0, 1.0]))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV"])
def test_every_eight_bit_mode_is_read(mode: str) -> None:
    assert to_pixels(Image.new("RGB", (6, 4), "red").convert(mode), 8, *HALF).isfinite().all()


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white_and_dropped_when_asked_for(mode: str) -> None:
    hidden = Image.new("RGBA", (4, 4), (90, 90, 90, 0))
    hidden = hidden.convert(mode) if mode != "PA" else hidden.convert("P").convert("PA")
    hidden.putalpha(0)
    assert to_rgb(hidden).getpixel((1, 1)) == (255, 255, 255)
    assert is_like(to_rgb(hidden, "dropped").getpixel((1, 1)), (90, 90, 90))


@pytest.mark.parametrize(
    ("deep", "grey"),
    [
        (np.full((4, 4), 65535, np.uint16), 255),
        (np.full((4, 4), 32896, np.uint16), 128),
        (np.full((4, 4), 40, np.uint16), 0),
        (np.full((4, 4), 200, np.int32), 200),
        (np.full((4, 4), 65535, np.int32), 255),
        (np.full((4, 4), 0.5, np.float32), 128),
        (np.full((4, 4), 200.0, np.float32), 200),
        (np.full((4, 4), np.nan, np.float32), 0),
    ],
)
def test_deep_pictures_are_scaled_to_eight_bits(deep: np.ndarray, grey: int) -> None:
    assert to_rgb(Image.fromarray(deep)).getpixel((2, 2)) == (grey, grey, grey)


def test_a_sixteen_bit_file_is_read(tmp_path: Path) -> None:
    Image.fromarray(np.full((4, 4), 32896, np.uint16)).save(tmp_path / "deep.png")
    assert open_picture(tmp_path / "deep.png").getpixel((0, 0)) == (128, 128, 128)


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (40, 20), "white")
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    picture.save(tmp_path / "turned.jpg", exif=exif)
    assert open_picture(tmp_path / "turned.jpg").size == (20, 40)


def test_the_first_frame_of_an_animation_counts(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert open_picture(tmp_path / "moving.gif").getpixel((1, 1)) == (255, 0, 0)


def test_a_file_that_is_not_a_picture_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("hello")
    for name, code in (("text.png", "not_an_image"), ("absent.png", "no_image")):
        with pytest.raises(ImageError) as caught:
            open_picture(tmp_path / name)
        assert caught.value.code == code


def test_a_truncated_picture_is_an_error(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    (tmp_path / "cut.png").write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(ImageError) as caught:
        open_picture(tmp_path / "cut.png")
    assert caught.value.code == "image_truncated"

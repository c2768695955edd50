"""Both renderers draw what the scene describes, at the right place."""

from __future__ import annotations

import colorsys
from collections.abc import Callable

import pytest
from PIL import Image

from lab.demo_training import render, second_renderer
from lab.demo_training.world import COLOURS, SHAPES, Scene, Thing, scenes

Draw = Callable[[Scene], Image.Image]
BOTH = pytest.mark.parametrize("draw", [render.render, second_renderer.render], ids=["primary", "second"])
HUES = {"red": 0, "orange": 32, "yellow": 55, "green": 125, "blue": 225, "purple": 284}


def name_of(pixel: tuple[int, int, int]) -> str:
    """Return the colour name, by lightness for greys, else by the nearest hue."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in pixel))
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.85 else "grey"
    return min(HUES, key=lambda name: abs((hue * 360 - HUES[name] + 180) % 360 - 180))


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_the_centre_has_the_colours_name_and_the_corners_do_not(draw: Draw, shape: str, colour: str) -> None:
    backdrop = 0.5
    for seed in range(3):
        picture = draw(Scene(160, 120, (Thing(shape, colour, 0.4, 0.35, 0.55, 8.0),), backdrop, seed))
        assert picture.size == (160, 120)
        assert picture.mode == "RGB"
        centre = picture.getpixel((56, 66))
        assert isinstance(centre, tuple)
        assert name_of(centre[:3]) == colour
        for corner in ((3, 3), (156, 3), (3, 116), (156, 116)):
            pixel = picture.getpixel(corner)
            assert isinstance(pixel, tuple)
            assert max(abs(channel - 128) for channel in pixel) < 70


@BOTH
def test_shapes_cover_the_area_that_is_theirs(draw: Draw) -> None:
    """Areas as shares of the circumscribed circle's square, by geometry."""
    areas = {"circle": 0.785, "square": 0.5, "triangle": 0.325, "star": 0.30, "cross": 0.45}
    for shape, area in areas.items():
        picture = draw(Scene(200, 200, (Thing(shape, "black", 0.6, 0.5, 0.5),), 1.0, 4)).convert("L")
        dark = sum(picture.histogram()[:128]) / (0.6 * 200) ** 2
        assert dark == pytest.approx(area, abs=0.07), shape


@BOTH
def test_larger_is_drawn_larger(draw: Draw) -> None:
    def dark(diameter: float) -> int:
        picture = draw(Scene(200, 200, (Thing("circle", "black", diameter, 0.5, 0.5),), 1.0, 4))
        return sum(picture.convert("L").histogram()[:128])

    assert dark(0.15) < dark(0.3) < dark(0.5)


@BOTH
def test_the_same_scene_gives_the_same_pixels(draw: Draw) -> None:
    drawn = next(scenes(21, (4,)))
    assert draw(drawn).tobytes() == draw(drawn).tobytes()


def test_the_two_renderers_differ() -> None:
    drawn = next(scenes(22, (3,)))
    assert render.render(drawn).tobytes() != second_renderer.render(drawn).tobytes()

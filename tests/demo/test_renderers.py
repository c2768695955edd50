"""The renderers draw what the scene describes, at the right place, and share no code."""

from __future__ import annotations

import ast
import colorsys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.demo_training import render, second_renderer, third_renderer
from lab.demo_training.world import COLOURS, SHAPES, Scene, Thing, scenes

Draw = Callable[[Scene], Image.Image]
RENDERERS = {"primary": render.render, "second": second_renderer.render, "third": third_renderer.render}
EACH = pytest.mark.parametrize("draw", RENDERERS.values(), ids=RENDERERS)
TRAINING = Path(render.__file__).parent
HUES = {"red": 0, "orange": 32, "yellow": 55, "green": 125, "blue": 225, "purple": 284}


def name_of(pixel: tuple[int, int, int]) -> str:
    """Return the colour name, by lightness for greys, else by the nearest hue."""
    hue, saturation, value = colorsys.rgb_to_hsv(*(channel / 255 for channel in pixel))
    if value < 0.2:
        return "black"
    if saturation < 0.15:
        return "white" if value > 0.85 else "grey"
    return min(HUES, key=lambda name: abs((hue * 360 - HUES[name] + 180) % 360 - 180))


@EACH
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


@EACH
def test_shapes_cover_the_area_that_is_theirs(draw: Draw) -> None:
    """Areas as shares of the circumscribed circle's square, by geometry; the mean, since proportions vary."""
    areas = {"circle": 0.785, "square": 0.5, "triangle": 0.325, "star": 0.30, "cross": 0.45}
    for shape, area in areas.items():
        dark = 0
        for seed in range(8):
            picture = draw(Scene(200, 200, (Thing(shape, "black", 0.6, 0.5, 0.5),), 1.0, seed)).convert("L")
            dark += sum(picture.histogram()[:128])
        assert dark / 8 / (0.6 * 200) ** 2 == pytest.approx(area, abs=0.07), shape


@EACH
def test_larger_is_drawn_larger(draw: Draw) -> None:
    def dark(diameter: float) -> int:
        picture = draw(Scene(200, 200, (Thing("circle", "black", diameter, 0.5, 0.5),), 1.0, 4))
        return sum(picture.convert("L").histogram()[:128])

    assert dark(0.15) < dark(0.3) < dark(0.5)


@EACH
def test_the_same_scene_gives_the_same_pixels(draw: Draw) -> None:
    drawn = next(scenes(21, (4,)))
    assert draw(drawn).tobytes() == draw(drawn).tobytes()


def test_the_renderers_differ() -> None:
    drawn = next(scenes(22, (3,)))
    assert len({draw(drawn).tobytes() for draw in RENDERERS.values()}) == len(RENDERERS)


@EACH
@pytest.mark.parametrize("seed", range(6))
def test_each_colour_is_centred_where_its_thing_is(draw: Draw, seed: int) -> None:
    """Find every thing by its hue alone."""
    things = tuple(
        Thing(shape, colour, 0.24, x, y, 9.0)
        for shape, colour, (x, y) in zip(
            ("star", "cross", "square", "circle", "triangle", "star"),
            HUES,
            ((0.2, 0.25), (0.5, 0.3), (0.8, 0.25), (0.2, 0.75), (0.5, 0.7), (0.8, 0.75)),
            strict=True,
        )
    )
    hsv = np.asarray(draw(Scene(240, 160, things, 1.0, seed)).convert("HSV"), np.float32)
    hue, vivid = hsv[..., 0] * 360 / 255, (hsv[..., 1] > 100) & (hsv[..., 2] > 80)
    distances = [np.abs((hue - wanted + 180) % 360 - 180) for wanted in HUES.values()]
    nearest = np.argmin(distances, axis=0)
    for index, thing in enumerate(things):
        rows, columns = np.nonzero(vivid & (nearest == index))
        assert len(rows) > 200, thing
        assert np.median(columns) / 240 == pytest.approx(thing.x, abs=0.03), thing
        assert np.median(rows) / 160 == pytest.approx(thing.y, abs=0.04), thing


def imported(file: Path) -> set[str]:
    """Return the modules of this folder that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "lab.demo_training":
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lab.demo_training."):
            found.add(str(node.module).rsplit(".", 1)[1])
    return found


def test_the_renderers_share_no_code() -> None:
    for module in (render, second_renderer, third_renderer):
        assert imported(Path(module.__file__)) == {"world"}


def test_training_uses_the_primary_renderer_only() -> None:
    users = {file.stem: imported(file) for file in TRAINING.glob("*.py")}
    assert [name for name in users if users[name] & {"second_renderer", "third_renderer"}] == ["pairs"]
    assert [name for name in users if "pairs" in users[name]] == ["evaluate"]

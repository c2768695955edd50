"""Draw a scene with Pillow: flat, graded or noisy backgrounds, outlines, rotation, blur, JPEG artefacts."""

from __future__ import annotations

import colorsys
import io
import math
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from lab.demo_training.world import Scene, Thing

# Hue (degrees), saturation and value ranges. They include the CSS values: purple is (128, 0, 128).
SHADES: dict[str, tuple[tuple[float, float], tuple[float, float], tuple[float, float]]] = {
    "red": ((-8, 8), (0.78, 1.0), (0.70, 1.0)),
    "orange": ((23, 39), (0.82, 1.0), (0.88, 1.0)),
    "yellow": ((50, 61), (0.70, 1.0), (0.85, 1.0)),
    "green": ((95, 150), (0.65, 1.0), (0.42, 0.95)),
    "blue": ((208, 243), (0.70, 1.0), (0.60, 1.0)),
    "purple": ((272, 302), (0.60, 1.0), (0.45, 0.90)),
    "black": ((0, 360), (0.0, 0.3), (0.0, 0.10)),
    "white": ((0, 360), (0.0, 0.03), (0.95, 1.0)),
}
# Wider ranges, for training only: firebrick, navy and sky blue, gold, Tableau's muted purple.
WIDE_SHADES = SHADES | {
    "red": ((-14, 9), (0.75, 1.0), (0.66, 1.0)),
    "orange": ((22, 40), (0.80, 1.0), (0.86, 1.0)),
    "yellow": ((49, 62), (0.62, 1.0), (0.82, 1.0)),
    "green": ((88, 152), (0.60, 1.0), (0.38, 1.0)),
    "blue": ((203, 246), (0.60, 1.0), (0.46, 1.0)),
    "purple": ((264, 304), (0.44, 1.0), (0.40, 0.95)),
    "white": ((0, 360), (0.0, 0.05), (0.92, 1.0)),
}
_SHARP_BELOW = 700  # pixels; larger pictures need no supersampling, since they are downscaled

RGB = tuple[int, int, int]


def shade(rng: random.Random, colour: str, wide: bool = False) -> RGB:
    """Return a random shade of this colour name; one in four is the most saturated."""
    hue, saturation, value = (WIDE_SHADES if wide else SHADES)[colour]
    if rng.random() < 0.25 and colour not in ("black", "white"):
        red, green, blue = colorsys.hsv_to_rgb(sum(hue) / 2 % 360 / 360, saturation[1], value[1])
    else:
        red, green, blue = colorsys.hsv_to_rgb(
            rng.uniform(*hue) % 360 / 360, rng.uniform(*saturation), rng.uniform(*value)
        )
    return round(red * 255), round(green * 255), round(blue * 255)


# Varied proportions: a star's inner to outer radius; a cross's half arm width to its length.
PROPORTIONS: dict[str, tuple[float, float]] = {"star": (0.35, 0.48), "cross": (0.25, 0.38)}


def outline_points(
    shape: str, radius: float, angle: float, proportion: float = 0.4
) -> list[tuple[float, float]]:
    """Return the polygon of a shape around (0, 0), y down, rotated by `angle` degrees; see `PROPORTIONS`."""
    if shape == "circle":
        polar = [(1.0, 360 * i / 48) for i in range(48)]
    elif shape == "square":
        polar = [(1.0, 45 + 90 * i) for i in range(4)]
    elif shape == "triangle":
        polar = [(1.0, -90 + 120 * i) for i in range(3)]
    elif shape == "star":
        polar = [(1.0 if i % 2 == 0 else proportion, -90 + 36 * i) for i in range(10)]
    elif shape == "cross":
        scale = 1 / math.hypot(1, proportion)
        corners = ((proportion, 1.0), (proportion, proportion), (1.0, proportion))
        quarter = [(math.hypot(x, y) * scale, math.degrees(math.atan2(y, x))) for x, y in corners]
        polar = [(r, degrees - 90 * turn) for turn in range(4) for r, degrees in quarter]
    else:
        raise ValueError(f"unknown shape {shape!r}")
    turned = [(r * radius, math.radians(degrees + angle)) for r, degrees in polar]
    return [(r * math.cos(a), r * math.sin(a)) for r, a in turned]


def _background(rng: random.Random, width: int, height: int, lightness: float) -> Image.Image:
    """Return a plain, graded or noisy background, slightly tinted; plain white and black stay pure."""
    tint = 0.0 if lightness in (0.0, 1.0) or rng.random() < 0.4 else rng.uniform(0, 18)
    base = np.array([lightness * 255 + rng.uniform(-tint, tint) for _ in range(3)], np.float32)
    style = "plain" if lightness in (0.0, 1.0) else rng.choice(("plain", "plain", "graded", "noisy"))
    if style == "plain":
        return Image.new("RGB", (width, height), tuple(int(v) for v in base.clip(0, 255)))
    if style == "graded":
        slope_x, slope_y = rng.uniform(-24, 24), rng.uniform(-24, 24)
        ramp = (
            np.linspace(-slope_x, slope_x, width, dtype=np.float32)[None, :]
            + np.linspace(-slope_y, slope_y, height, dtype=np.float32)[:, None]
        )
        return Image.fromarray((base + ramp[:, :, None]).clip(0, 255).astype(np.uint8))
    grain = rng.choice((1, 1, 2, 4))
    noise = np.random.default_rng(rng.getrandbits(32)).normal(
        0, rng.uniform(3, 14), (-(-height // grain), -(-width // grain), 1 if rng.random() < 0.5 else 3)
    )
    noise = noise.astype(np.float32).repeat(grain, 0).repeat(grain, 1)[:height, :width]
    return Image.fromarray((base + noise).clip(0, 255).astype(np.uint8))


def _outline_colour(rng: random.Random, colour: RGB) -> RGB:
    """Return a darker or lighter outline of the same hue, or grey: never another colour name."""
    factor = rng.choice((0.45, 0.6))
    if max(colour) < 40:
        return (90, 90, 90)
    if rng.random() < 0.5:
        red, green, blue = (int(v * factor) for v in colour)
        return red, green, blue
    return (60, 60, 60)


def _draw(canvas: Image.Image, thing: Thing, rng: random.Random, scale: int, mean: float, wide: bool) -> None:
    radius = thing.diameter * mean / 2 * scale
    centre_x, centre_y = thing.x * canvas.width, thing.y * canvas.height
    proportion = rng.uniform(*PROPORTIONS.get(thing.shape, (0.0, 0.0)))
    outline = outline_points(thing.shape, radius, thing.angle, proportion)
    points = [(centre_x + x, centre_y + y) for x, y in outline]
    fill = shade(rng, thing.colour, wide)
    pen = ImageDraw.Draw(canvas)
    pen.polygon(points, fill=fill)
    if rng.random() < (0.4 if wide else 0.25):
        width = max(1, round(radius * rng.uniform(0.04, 0.16 if wide else 0.10)))
        pen.line([*points, points[0], points[1]], fill=_outline_colour(rng, fill), width=width, joint="curve")


def render(scene: Scene, wide: bool = False) -> Image.Image:
    """Return the scene's picture (RGB, scene.width x scene.height), deterministically.

    With `wide`, which only training uses, shades vary more, outlines are thicker and more frequent, and fewer
    edges are anti-aliased.
    """
    rng = random.Random(scene.seed)
    mean = math.sqrt(scene.width * scene.height)
    scale = (
        2 if max(scene.width, scene.height) < _SHARP_BELOW and rng.random() < (0.6 if wide else 0.85) else 1
    )
    canvas = _background(rng, scene.width, scene.height, scene.backdrop)
    if scale > 1:
        canvas = canvas.resize((scene.width * scale, scene.height * scale), Image.Resampling.NEAREST)
    for thing in scene.things:
        _draw(canvas, thing, rng, scale, mean, wide)
    if scale > 1:
        canvas = canvas.resize((scene.width, scene.height), Image.Resampling.BOX)
    if rng.random() < 0.15:
        canvas = canvas.filter(ImageFilter.GaussianBlur(rng.uniform(0.003, 0.008) * mean))
    if rng.random() < 0.25:
        packed = io.BytesIO()
        canvas.save(packed, "JPEG", quality=rng.randint(35, 92))
        canvas = Image.open(packed).convert("RGB")
    return canvas

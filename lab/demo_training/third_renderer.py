"""A third renderer, never used in training: matplotlib's Agg, no code of the other two.

Circles are true curves, shades those that CSS, Tableau and the xkcd colour survey call by the colour's name;
strokes have mitred, round or bevelled joins, edges come with and without anti-aliasing. Its scenes are more
crowded, with bounding circles that overlap slightly, in pictures down to 64 x 64 pixels (`world.THIRD`).
"""

from __future__ import annotations

import io
import math
import random

import numpy as np
import numpy.typing as npt
from matplotlib.backends.backend_agg import RendererAgg
from matplotlib.colors import to_rgb
from matplotlib.path import Path
from matplotlib.transforms import Affine2D
from PIL import Image

from lab.demo_training.world import Scene, Thing

RGB = tuple[float, float, float]

NAMES: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson", "firebrick", "tab:red", "xkcd:red", "xkcd:bright red"),
    "orange": ("orange", "darkorange", "tab:orange", "xkcd:orange", "xkcd:bright orange"),
    "yellow": ("yellow", "gold", "xkcd:yellow", "xkcd:sunflower yellow", "xkcd:lemon yellow"),
    "green": ("green", "forestgreen", "limegreen", "tab:green", "xkcd:green", "xkcd:grass green"),
    "blue": ("blue", "navy", "royalblue", "dodgerblue", "tab:blue", "xkcd:blue"),
    "purple": ("purple", "darkorchid", "rebeccapurple", "tab:purple", "xkcd:purple"),
    "black": ("black", "0.07", "xkcd:almost black"),
    "white": ("white", "snow", "ghostwhite", "0.96"),
}


def _cross(arm: float) -> Path:
    """Return a plus sign inside the unit circle; `arm` is half an arm's width over half its length."""
    end = 1 / math.hypot(1, arm)
    side = arm * end
    right = [(side, side), (end, side), (end, -side), (side, -side)]
    turns = (Affine2D().rotate_deg(-90 * i).transform(right[:3]) for i in range(4))
    return Path(np.concatenate(list(turns)), closed=False)


def _unit_path(shape: str, rng: random.Random) -> Path:
    """Return a shape inside the unit circle, y up, of varied proportions."""
    if shape == "circle":
        return Path.unit_circle()
    if shape == "square":
        return Path.unit_regular_polygon(4).transformed(Affine2D().rotate_deg(45))
    if shape == "triangle":
        return Path.unit_regular_polygon(3).transformed(Affine2D().scale(rng.uniform(0.85, 1.0), 1.0))
    if shape == "star":
        return Path.unit_regular_star(5, rng.uniform(0.37, 0.48))
    if shape == "cross":
        return _cross(rng.uniform(0.24, 0.36))
    raise ValueError(f"unknown shape {shape!r}")


def _stroke(rng: random.Random, colour: str, fill: RGB) -> RGB | None:
    """Return the stroke's colour: none, the fill's own, a tint or shade of it, or grey."""
    choice = rng.random()
    if choice < 0.5:
        return None
    if choice < 0.7:
        return fill
    if choice < 0.85 or colour in ("black", "white"):
        grey = rng.uniform(0.35, 0.5) if colour in ("black", "white") else rng.uniform(0.15, 0.35)
        return grey, grey, grey
    toward = 1.0 if rng.random() < 0.4 else 0.0
    red, green, blue = (0.5 * channel + 0.5 * toward for channel in fill)
    return red, green, blue


def _draw(agg: RendererAgg, thing: Thing, rng: random.Random, size: tuple[int, int]) -> None:
    width, height = size
    radius = thing.diameter * math.sqrt(width * height) / 2
    fill = to_rgb(rng.choice(NAMES[thing.colour]))
    stroke = _stroke(rng, thing.colour, fill)
    pen = agg.new_gc()
    pen.set_antialiased(rng.random() < 0.7)
    pen.set_joinstyle(rng.choice(("miter", "round", "bevel")))
    line = max(1.0, radius * rng.uniform(0.05, 0.14)) if stroke else 0.0
    pen.set_linewidth(line)  # pixels, at 72 dots per inch
    pen.set_foreground(stroke or fill)
    place = (
        Affine2D()
        .scale(radius - line / 2)
        .rotate_deg(-thing.angle)
        .translate(thing.x * width, (1 - thing.y) * height)
    )
    path = _unit_path(thing.shape, rng)
    if path.codes is None:
        path = Path([*path.vertices, path.vertices[0]], closed=True)
    agg.draw_path(pen, path, place, fill)


def _background(rng: random.Random, width: int, height: int, lightness: float) -> npt.NDArray[np.uint8]:
    """Return (height, width, 4): plain, a linear or radial gradient between two tints, soft or fine grain."""
    tints = np.array([[rng.uniform(-0.05, 0.05) for _ in range(3)] for _ in range(2)])
    style = rng.choice(("plain", "graded", "radial", "soft grain", "fine grain"))
    if lightness in (0.0, 1.0):
        style, tints = "plain", tints * 0
    x, y = np.linspace(-1, 1, width)[None, :], np.linspace(-1, 1, height)[:, None]
    if style == "graded":
        turn = rng.uniform(0, 2 * math.pi)
        blend = (math.cos(turn) * x + math.sin(turn) * y + 1.5) / 3
    elif style == "radial":
        blend = np.hypot(x - rng.uniform(-0.5, 0.5), y - rng.uniform(-0.5, 0.5)) / 2.2
    elif style == "plain":
        blend = np.zeros((height, width))
    else:
        share = 1 if style == "fine grain" else 8
        grain = np.random.default_rng(rng.getrandbits(32)).random(
            (height // share, width // share), np.float32
        )
        blend = np.asarray(Image.fromarray(grain).resize((width, height), Image.Resampling.BICUBIC))
    colour = lightness + tints[0] + (blend[:, :, None] * (tints[1] - tints[0]))
    opaque = np.dstack([colour, np.ones((height, width))])
    return (opaque.clip(0, 1) * 255).round().astype(np.uint8)


def render(scene: Scene) -> Image.Image:
    """Return the scene's picture (RGB, scene.width x scene.height), deterministically."""
    rng = random.Random(scene.seed ^ 0x7A99)
    size = scene.width, scene.height
    agg = RendererAgg(*size, 72)
    agg.draw_image(agg.new_gc(), 0, 0, _background(rng, *size, scene.backdrop))
    for thing in scene.things:
        _draw(agg, thing, rng, size)
    picture = Image.fromarray(np.asarray(agg.buffer_rgba())[:, :, :3].copy())
    if rng.random() < 0.2:
        packed = io.BytesIO()
        picture.save(packed, "WEBP", quality=rng.randint(40, 90))
        picture = Image.open(packed).convert("RGB")
    return picture

"""A second, independent renderer for testing: signed distances in numpy, no code of `render.py`.

Edges are smoothed by distance instead of supersampling, shades come from a separate palette, backgrounds are
plain, vignetted, striped or speckled; its scenes have other sizes, places and formats (`world.SECOND`).
"""

from __future__ import annotations

import io
import math
import random
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from PIL import Image

from lab.demo_training.world import Scene, Thing

Array = npt.NDArray[np.float32]

PALETTE: dict[str, tuple[tuple[int, int, int], ...]] = {
    "red": ((220, 20, 30), (200, 0, 0), (255, 40, 40), (178, 24, 32)),
    "orange": ((255, 140, 0), (245, 130, 32), (255, 120, 10)),
    "yellow": ((255, 230, 20), (250, 220, 60), (230, 210, 0)),
    "green": ((0, 150, 60), (40, 180, 40), (20, 120, 50), (60, 200, 90)),
    "blue": ((20, 60, 220), (30, 100, 200), (0, 0, 190), (50, 110, 240)),
    "purple": ((140, 40, 180), (110, 20, 150), (160, 60, 200)),
    "black": ((8, 8, 8), (20, 20, 22), (0, 0, 0)),
    "white": ((255, 255, 255), (248, 248, 250), (252, 250, 246)),
}


def _circle(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - 1


def _box(x: Array, y: Array, half_width: float, half_height: float) -> Array:
    beyond_x, beyond_y = np.abs(x) - half_width, np.abs(y) - half_height
    outside = np.hypot(np.maximum(beyond_x, 0), np.maximum(beyond_y, 0))
    return outside + np.minimum(np.maximum(beyond_x, beyond_y), 0)


def _square(x: Array, y: Array) -> Array:
    return _box(x, y, math.sqrt(0.5), math.sqrt(0.5))


def _triangle(x: Array, y: Array) -> Array:
    """Intersect three half planes at distance one half; y points down, the tip up."""
    slope = math.sqrt(0.75)
    return np.maximum.reduce([y - 0.5, slope * x - 0.5 * y - 0.5, -slope * x - 0.5 * y - 0.5])


def _cross(x: Array, y: Array) -> Array:
    return np.minimum(_box(x, y, 0.95, 0.29), _box(x, y, 0.29, 0.95))


def _star(x: Array, y: Array) -> Array:
    """Return a pentagram: inside when at most one of its five lines is crossed."""
    edge = math.cos(math.radians(72))
    lines = [math.sin(math.radians(72 * i)) * x + math.cos(math.radians(72 * i)) * y - edge for i in range(5)]
    ordered = np.sort(np.stack(lines), axis=0)
    second: Array = ordered[-2]
    return second


DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "cross": _cross,
}


def _background(rng: random.Random, width: int, height: int, lightness: float) -> Array:
    noise = np.random.default_rng(rng.getrandbits(32))
    base = np.full((height, width, 3), lightness * 255, np.float32)
    style = rng.choice(("plain", "vignette", "stripes", "speckle"))
    if lightness in (0.0, 1.0) or style == "plain":
        return base
    if style == "vignette":
        x, y = np.linspace(-1, 1, width, dtype=np.float32), np.linspace(-1, 1, height, dtype=np.float32)
        return base - rng.uniform(5, 20) * (x[None, :, None] ** 2 + y[:, None, None] ** 2)
    if style == "stripes":
        period = rng.uniform(0.03, 0.1) * width
        wave = np.sin(np.arange(width, dtype=np.float32) / period * 2 * math.pi)
        return base + rng.uniform(2, 7) * wave[None, :, None]
    return base + noise.uniform(-12, 12, (height, width, 1)).astype(np.float32)


def _paint(canvas: Array, thing: Thing, rng: random.Random) -> None:
    """Blend the thing into the canvas within its bounding square."""
    height, width = canvas.shape[:2]
    radius = thing.diameter * math.sqrt(width * height) / 2
    centre_x, centre_y = thing.x * width, thing.y * height
    left, right = max(0, int(centre_x - radius - 2)), min(width, int(centre_x + radius + 3))
    top, bottom = max(0, int(centre_y - radius - 2)), min(height, int(centre_y + radius + 3))
    x = (np.arange(left, right, dtype=np.float32) + 0.5 - centre_x)[None, :] / radius
    y = (np.arange(top, bottom, dtype=np.float32) + 0.5 - centre_y)[:, None] / radius
    angle = math.radians(thing.angle)
    turned_x = math.cos(angle) * x + math.sin(angle) * y
    turned_y = -math.sin(angle) * x + math.cos(angle) * y
    distance = DISTANCES[thing.shape](turned_x, turned_y) * radius  # pixels
    colour = np.array(rng.choice(PALETTE[thing.colour]), np.float32)
    colour = (colour + np.array([rng.uniform(-6, 6) for _ in range(3)], np.float32)).clip(0, 255)
    softness = rng.uniform(0.7, 1.6)
    cover = (0.5 - distance / softness).clip(0, 1)[:, :, None]
    patch = canvas[top:bottom, left:right]
    patch += cover * (colour - patch)


def render(scene: Scene) -> Image.Image:
    """Return the scene's picture (RGB, scene.width x scene.height), deterministically."""
    rng = random.Random(scene.seed ^ 0x5EC0)
    canvas = _background(rng, scene.width, scene.height, scene.backdrop)
    for thing in scene.things:
        _paint(canvas, thing, rng)
    picture = Image.fromarray(canvas.clip(0, 255).round().astype(np.uint8))
    if rng.random() < 0.2:
        packed = io.BytesIO()
        picture.save(packed, "JPEG", quality=rng.randint(50, 95))
        picture = Image.open(packed).convert("RGB")
    return picture

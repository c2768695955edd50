"""Twenty pictures and sentences that cover the hard cases of picture decoding and tokenization.

Pictures come from integer arithmetic on PCG64's raw bits, mostly in lossless formats, so that every machine
writes the same pixels; `pixel_digest` detects a difference. Texts hold no special token (`</s>`, `<mask>`,
`<code_5>`): ModelScope reads those as control tokens, ofa/ as plain text by design.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class TextPair:
    """A picture's file name or path, the hypothesis and an optional premise."""

    picture: str
    text: str
    premise: str | None = None


_LONG = (
    "In the middle of a crowded square, beside a fountain that has not worked for years, a woman in a long "
    "green coat is explaining to two patient children why pigeons, unlike the gulls above the harbour, never "
    "seem to be in a hurry, while behind her a street musician tunes his cello, a dog sleeps under a cafe "
    "table, and somebody on the third floor leans out of a window to water a row of red geraniums; " * 3
)

PAIRS: tuple[TextPair, ...] = (
    TextPair("shapes.png", "there is a red circle"),
    TextPair("shapes.png", "There is NO Blue star!"),
    TextPair("noise.png", "two dogs run on the beach"),
    TextPair("noise.png", "the animals are outside", "two dogs run on the beach"),
    TextPair("grey.png", "a photo"),
    TextPair("palette.png", "a man isn't riding a horse, he's reading it's 2016 paper..."),
    TextPair("rgba.png", '"quoted" and \'single\' (brackets) {braces} 100% & more'),
    TextPair("cmyk.tif", "black-and-white/grey print of <person> and another-person", "offset -- press/ink"),
    TextPair("la.png", "."),
    TextPair("bilevel.png", " "),
    TextPair("animated.gif", "一个男人在公园里骑马。", "照片里有三个人"),
    TextPair("turned.jpg", "un café à São Paulo, naïve Übergröße, ελληνικά, русский"),
    TextPair("dot.png", "👩‍👩‍👧 smile 😀 at 🇩🇪 flags ✌🏽"),
    TextPair("tall.png", "zero\u200bwidth\u200djoin\ufeff and\u00a0hard\u2003spaces  here \t tab \n line"),
    TextPair("wide.png", _LONG),
    TextPair("photo.jpg", _LONG[:200], _LONG[200:600]),
    TextPair("ink.jpg", ",.!?*#:;~ - leading marks, 1,234.56 numbers -/- and ends\n"),
    TextPair("photo.jpg", "a woman and a child walking through the park", "."),
    TextPair("shapes.png", "aaaaaaaaaaaaaaaaaaaaaaaa_bbbbb__CCCC ①②③ ½ ﬁ ℌ İstanbul ǅ ß", " "),
    TextPair("noise.png", "ｆｕｌｌｗｉｄｔｈ ﷽ हिन्दी עברית ไทย ½x² e\u0301 vs é"),
)  # fmt: skip


def pairs_for(slots: int | None) -> tuple[TextPair, ...]:
    """Return the pairs a folder can judge, by the slots of its configured prompt (None: built-in prompts).

    With one slot ModelScope silently drops the hypothesis of a pair with a premise; with two it fails without
    one. ofa/ refuses both, so such pairs lose or get a premise.
    """
    if slots == 1:
        return tuple(replace(pair, premise=None) for pair in PAIRS)
    if slots == 2:
        return tuple(pair if pair.premise else replace(pair, premise="a photo of it") for pair in PAIRS)
    return PAIRS


def card_pairs(folder: Path) -> tuple[TextPair, ...]:
    """Return the examples of a model's card.json; none without a card."""
    card = folder / "card.json"
    if not card.is_file():
        return ()
    examples = json.loads(card.read_text(encoding="utf-8")).get("examples", [])
    return tuple(
        TextPair(str(folder / example["image"]), example["hypothesis"], example.get("premise") or None)
        for example in examples
    )


def write_pictures(folder: Path) -> None:
    """Write every picture of `PAIRS` into `folder`."""
    for name, write in _PICTURES.items():
        write(folder / name)


def pixel_digest(picture: Image.Image) -> str:
    """Return a hash of the picture's RGB pixels."""
    return hashlib.sha256(repr(picture.size).encode() + picture.convert("RGB").tobytes()).hexdigest()[:16]


def _bits(seed: int, height: int, width: int, channels: int) -> Bytes:
    raw = np.random.PCG64(seed).random_raw((height * width * channels + 7) // 8)
    return raw.astype("<u8").view(np.uint8)[: height * width * channels].reshape(height, width, channels)


def _scene(seed: int, height: int, width: int, channels: int = 3) -> Bytes:
    """Return blocks, a gradient and grain, as in a photograph; (height, width, channels)."""
    total = _bits(seed, height, width, channels).astype(np.int64)
    for step in (4, 16, 48):
        coarse = _bits(seed + step, -(-height // step), -(-width // step), channels).astype(np.int64)
        total += 2 * np.repeat(np.repeat(coarse, step, axis=0), step, axis=1)[:height, :width]
    total += np.linspace(0, 255, height).astype(np.int64)[:, None, None]
    return (total // 8).astype(np.uint8)


def _shapes(size: int = 150) -> Bytes:
    """Return a red disc and a blue square on white; (size, size, 3)."""
    picture = np.full((size, size, 3), 250, dtype=np.uint8)
    rows, columns = np.mgrid[:size, :size]
    picture[(rows - 50) ** 2 + (columns - 60) ** 2 < 35**2] = (220, 30, 35)
    picture[95:140, 80:130] = (30, 60, 210)
    return picture


def _plain(pixels: Callable[[], Bytes], mode: str) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        values = pixels()
        image = Image.fromarray(values[:, :, 0] if values.shape[2] == 1 else values)
        if image.mode != mode:  # four channels read as RGBA; CMYK takes the same bytes
            image = Image.frombytes(mode, image.size, values.tobytes())
        image.save(path)

    return write


def _bilevel(path: Path) -> None:
    black_or_white = 255 * (_scene(21, 61, 83, 1)[:, :, 0] > 110).astype(np.uint8)
    Image.fromarray(black_or_white).convert("1", dither=Image.Dither.NONE).save(path)


def _palette(path: Path) -> None:
    image = Image.frombytes("P", (90, 70), (_scene(22, 70, 90, 1) % 32).tobytes())
    image.putpalette(_bits(23, 32, 3, 1).tobytes())
    image.save(path, transparency=5)


def _animated(path: Path) -> None:
    frames = []
    for seed in (31, 32, 33):
        frame = Image.frombytes("P", (64, 48), (_scene(seed, 48, 64, 1) % 16).tobytes())
        frame.putpalette(_bits(seed, 16, 3, 1).tobytes())
        frames.append(frame)
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=80, loop=0)


def _turned(path: Path) -> None:
    """Write a rotated picture with EXIF orientation 6, which must be applied first."""
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(_scene(24, 60, 110)).save(path, quality=92, exif=exif)


_PICTURES: Mapping[str, Callable[[Path], None]] = {
    "shapes.png": _plain(_shapes, "RGB"),
    "noise.png": _plain(lambda: _bits(1, 120, 160, 3), "RGB"),
    "grey.png": _plain(lambda: np.full((64, 64, 1), 128, dtype=np.uint8), "L"),
    "palette.png": _palette,
    "rgba.png": _plain(lambda: _scene(2, 101, 97, 4), "RGBA"),
    "cmyk.tif": _plain(lambda: _scene(3, 80, 120, 4), "CMYK"),
    "la.png": _plain(lambda: _scene(4, 77, 55, 2), "LA"),
    "bilevel.png": _bilevel,
    "animated.gif": _animated,
    "turned.jpg": _turned,
    "dot.png": _plain(lambda: np.array([[[200, 40, 90]]], dtype=np.uint8), "RGB"),
    "tall.png": _plain(lambda: _scene(5, 400, 3), "RGB"),
    "wide.png": _plain(lambda: _scene(6, 7, 500), "RGB"),
    "photo.jpg": lambda path: Image.fromarray(_scene(7, 240, 320)).save(path, quality=85),
    "ink.jpg": _plain(lambda: _scene(8, 64, 64, 4), "CMYK"),
}

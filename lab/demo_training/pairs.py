"""Held-out pairs, from seeds that training never uses, and the text-only baseline."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from lab.demo_training import render, second_renderer
from lab.demo_training.pictures import COUNTS
from lab.demo_training.sentences import Sentence, Writer
from lab.demo_training.world import PRIMARY, SECOND, THIRD, Scene, SceneStyle, scenes

PER_PICTURE = 4


def _third(scene: Scene) -> Image.Image:
    from lab.demo_training import third_renderer  # needs matplotlib, which the GPU check does without

    return third_renderer.render(scene)


RENDERERS: dict[str, tuple[SceneStyle, Callable[[Scene], Image.Image]]] = {
    "primary": (PRIMARY, render.render),
    "second": (SECOND, second_renderer.render),
    "third": (THIRD, _third),
}
HELD_OUT_SEED = 77_000_001  # training's scene seeds are 100003 times a small number, plus a shard's number


@dataclass(frozen=True)
class HeldOut:
    """One pair with its correct answer ("yes", "no" or "maybe")."""

    scene: Scene
    picture: Image.Image
    sentence: Sentence


def held_out(
    count: int, categories: Sequence[str], renderer: str, seed: int = HELD_OUT_SEED
) -> list[HeldOut]:
    """Return `count` pairs with balanced categories, four sentences per picture."""
    style, draw = RENDERERS[renderer]
    rng = random.Random(seed)
    writer, stream = Writer(rng, dict.fromkeys(categories, 1.0)), scenes(seed, COUNTS, style)
    found: list[HeldOut] = []
    turn = 0
    while len(found) < count:
        scene = next(stream)
        picture = draw(scene)
        for _ in range(min(PER_PICTURE, count - len(found))):
            for category in (
                categories[turn % len(categories)],
                *rng.sample(list(categories), len(categories)),
            ):
                sentence = writer.write_about(scene, category)
                if sentence is not None:
                    found.append(HeldOut(scene, picture, sentence))
                    break
            turn += 1
    return found


class TextOnly:
    """Text-only baseline: the best guess from the words, learnt from the grammar's output."""

    def __init__(self, categories: Sequence[str], sentences: int = 60_000, seed: int = 5) -> None:
        rng = random.Random(seed)
        writer, stream = Writer(rng, dict.fromkeys(categories, 1.0)), scenes(seed, COUNTS)
        self._by_text: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._by_wording: defaultdict[str, Counter[str]] = defaultdict(Counter)
        for index in range(sentences):
            if index % 8 == 0:
                scene = next(stream)
            sentence = writer.write(scene)
            self._by_text[_plain(sentence.text)][sentence.answer] += 1
            self._by_wording[sentence.wording][sentence.answer] += 1

    def guess(self, sentence: Sentence) -> str:
        """Return the most frequent answer to this sentence if seen three times, else to its wording."""
        same = self._by_text.get(_plain(sentence.text), Counter())
        counts = same if same.total() >= 3 else self._by_wording.get(sentence.wording, Counter())
        return counts.most_common(1)[0][0] if counts else "no"


def _plain(text: str) -> str:
    return text.lower().removesuffix(".")

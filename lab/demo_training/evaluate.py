"""Measure the committed weights on held-out pairs: `python -m lab.demo_training.evaluate [--write-card]`.

Prints the tables of the model card; with `--write-card` it also writes them between the card's markers and
draws right and wrong examples. A minute and a half on two CPU cores.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from tqdm import tqdm

from lab.demo_training import DEMO
from lab.demo_training.pairs import RENDERERS, HeldOut, TextOnly, held_out
from lab.demo_training.sentences import CATEGORIES
from ofa.model import EntailmentModel
from ofa.pair import Pair

PAIRS = 4500
BATCH = 32
SURE = 0.9
LABELS = {"yes": "Yes", "no": "No", "maybe": "Maybe"}
BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"


@dataclass(frozen=True)
class Judged:
    """A held-out pair and the model's probabilities of Yes, No and Maybe."""

    pair: HeldOut
    scores: dict[str, float]

    @property
    def label(self) -> str:
        return max(self.scores, key=lambda name: self.scores[name])

    @property
    def right(self) -> bool:
        return self.label == LABELS[self.pair.sentence.answer]

    @property
    def confidence(self) -> float:
        return max(self.scores.values())


def judge(model: EntailmentModel, pairs: Sequence[HeldOut], quiet: bool = False) -> list[Judged]:
    """Return the model's verdict on every pair."""
    judged: list[Judged] = []
    for start in tqdm(range(0, len(pairs), BATCH), desc="judging", unit="batch", disable=quiet):
        part = pairs[start : start + BATCH]
        answers = model.judge([Pair(one.picture, one.sentence.text) for one in part])
        judged += [Judged(one, scores) for one, scores in zip(part, answers, strict=True)]
    return judged


def accuracy(judged: Sequence[Judged]) -> float:
    return sum(one.right for one in judged) / max(1, len(judged))


def calibration(judged: Sequence[Judged]) -> tuple[float, float]:
    """Return the share of verdicts above 90 % confidence, and their accuracy."""
    sure = [one for one in judged if one.confidence > SURE]
    return len(sure) / max(1, len(judged)), accuracy(sure)


def table(categories: Sequence[str], results: dict[str, list[Judged]], baseline: TextOnly) -> list[str]:
    """Return the accuracy by category and renderer, and the text-only baseline."""
    names = " | ".join(f"{name} renderer" for name in results)
    lines = [f"| category | pairs | {names} | words alone |", "|---" * (len(results) + 3) + "|"]
    sentences = [one.pair.sentence for one in next(iter(results.values()))]
    for category in (*categories, "all"):
        chosen = [sentence for sentence in sentences if category in ("all", sentence.category)]
        blind = sum(baseline.guess(sentence) == sentence.answer for sentence in chosen) / max(1, len(chosen))
        cells = [f"**{category}**" if category == "all" else category, str(len(chosen))]
        for judged in results.values():
            rows = [one for one in judged if category in ("all", one.pair.sentence.category)]
            cells.append(f"{accuracy(rows):.1%}")
        lines.append("| " + " | ".join([*cells, f"{blind:.1%}"]) + " |")
    return lines


def compare_precision(full: Path, stored: Sequence[Judged]) -> str:
    """Compare the stored half-precision weights with the full-precision ones."""
    exact = judge(EntailmentModel.load(full), [one.pair for one in stored])
    same = sum(a.label == b.label for a, b in zip(exact, stored, strict=True)) / len(exact)
    worst = max(abs(a.scores[k] - b.scores[k]) for a, b in zip(exact, stored, strict=True) for k in a.scores)
    return (
        f"Half precision: {accuracy(stored):.2%} right with the stored fp16 weights, {accuracy(exact):.2%} "
        f"with the fp32 weights they were rounded from; {same:.2%} of the verdicts agree, the largest "
        f"difference of a probability is {worst:.3f}."
    )


def draw_examples(judged: Sequence[Judged], path: Path, columns: int = 4) -> None:
    """Draw a sheet of correct (upper half) and wrong (lower half) verdicts with their sentences."""
    right, wrong = [one for one in judged if one.right], [one for one in judged if not one.right]
    step = max(1, len(right) // (2 * columns))
    chosen = [*right[::step][: 2 * columns], *wrong[: 2 * columns]]
    width, height = 250, 250
    sheet = Image.new("RGB", (columns * width, -(-len(chosen) // columns) * height), "white")
    pen = ImageDraw.Draw(sheet)
    for index, one in enumerate(chosen):
        left, top = index % columns * width, index // columns * height
        picture = one.pair.picture.copy()
        picture.thumbnail((width - 20, height - 70))
        sheet.paste(picture, (left + 10, top + 8))
        pen.rectangle(
            (left + 9, top + 7, left + 10 + picture.width, top + 8 + picture.height), outline="grey"
        )
        verdict = f"{one.label} {one.confidence:.0%}"
        if not one.right:
            verdict += f" (right: {LABELS[one.pair.sentence.answer]})"
        pen.text((left + 10, top + height - 52), _wrapped(one.pair.sentence.text), fill="black")
        pen.text((left + 10, top + height - 20), verdict, fill="darkgreen" if one.right else "darkred")
    sheet.quantize(128).save(path, optimize=True)


def _wrapped(text: str, columns: int = 38) -> str:
    cut = text.rfind(" ", 0, columns) if len(text) > columns else len(text)
    return text[:cut] + ("\n" + text[cut + 1 :] if cut < len(text) else "")


def report(
    pairs: int, categories: Sequence[str], renderers: Sequence[str]
) -> tuple[str, dict[str, list[Judged]]]:
    """Return the evaluation as Markdown, and its verdicts."""
    model = EntailmentModel.load(DEMO)
    results = {name: judge(model, held_out(pairs, categories, name)) for name in renderers}
    lines = table(categories, results, TextOnly(categories))
    for name, judged in results.items():
        share, right = calibration(judged)
        lines += [
            "",
            f"Calibration ({name} renderer): {share:.1%} of the verdicts are more than 90 % sure, "
            f"and {right:.2%} of those are right.",
        ]
    return "\n".join(lines), results


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--pairs", type=int, default=PAIRS, help=f"held-out pairs for each renderer ({PAIRS})"
    )
    parser.add_argument("--renderer", choices=(*RENDERERS, "all"), default="all")
    parser.add_argument("--full-precision", type=Path, help="folder with fp32 weights to compare with")
    parser.add_argument(
        "--write-card", action="store_true", help="write the tables into README.md, draw the sheet"
    )
    options = parser.parse_args()
    begun = time.monotonic()
    known = json.loads((DEMO / "card.json").read_text(encoding="utf-8"))["categories"]
    categories = [name for name in CATEGORIES if name in known]
    renderers = tuple(RENDERERS) if options.renderer == "all" else (options.renderer,)
    text, results = report(options.pairs, categories, renderers)
    if options.full_precision:
        text += "\n\n" + compare_precision(options.full_precision, next(iter(results.values())))
    print(text)
    print(f"\n{time.monotonic() - begun:.0f} s on {torch.get_num_threads()} threads")
    if options.write_card:
        card = (DEMO / "README.md").read_text(encoding="utf-8")
        fresh = f"{BEGIN}\n{text}\n{END}"
        pattern = re.escape(BEGIN) + ".*?" + re.escape(END)
        (DEMO / "README.md").write_text(re.sub(pattern, lambda _: fresh, card, flags=re.S), encoding="utf-8")
        draw_examples(results[renderers[0]], DEMO / "right_and_wrong.png")


if __name__ == "__main__":
    main()

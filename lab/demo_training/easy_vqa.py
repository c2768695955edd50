"""Convert the test questions of easy-VQA into statements: `python -m lab.demo_training.easy_vqa FOLDER`.

easy-VQA (Victor Zhou, MIT licence, `pip install easy-vqa==1.0`) has pictures of 64 x 64 pixels with one shape
each. FOLDER gets `pairs.csv` (image, text, label, category) and copies of the pictures. Only pictures whose
questions reveal a shape and a colour on the model's card are used: none with a rectangle, or in gray, teal or
brown. Yes/no questions about shapes and colours on the card become statements with the same answer; an open
question becomes a true and a false one.
"""

from __future__ import annotations

import argparse
import csv
import random
import re
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import easy_vqa

from lab.demo_training.phrases import a
from lab.demo_training.world import COLOURS, SHAPES

SEED = 3
EASY_SHAPES = ("circle", "rectangle", "triangle")
_YES_NO = re.compile(
    r"(?:is there|does the image|is)(?P<no> not| no)?(?: contain)? (?:an? )?(?P<what>\w+(?: shape)?)"
    r"(?: present| in the image)?\?"
)
PRESENT = (
    "there is {a}",
    "there's {a}",
    "the picture shows {a}",
    "there is {a} in the picture",
    "i can see {a}",
    "the image contains {a}",
)
ABSENT = (
    "there is no {noun}",
    "there is not {a}",
    "there isn't {a}",
    "the picture does not show {a}",
    "the picture has no {noun}",
)
COLOURED = (
    "the {noun} is {colour}",
    "the colour of the {noun} is {colour}",
    "the {noun} has the colour {colour}",
    "the {noun} is coloured {colour}",
)
Question = tuple[str, str, int]  # text, answer, number of the picture


@dataclass(frozen=True)
class Statement:
    """A statement about the picture with this number, and Yes or No."""

    picture: int
    text: str
    label: str
    category: str


def contents(questions: Iterable[Question]) -> dict[int, dict[str, str]]:
    """Return what the questions of each picture reveal: its "shape", its "colour", or both."""
    found: dict[int, dict[str, str]] = defaultdict(dict)
    for text, answer, picture in questions:
        last = text.removesuffix(" shape?").removesuffix("?").split()[-1]
        if text.startswith("what") and "color" in text:
            found[picture]["colour"] = answer
            if last in EASY_SHAPES:
                found[picture]["shape"] = last
        elif text.startswith("what"):
            found[picture]["shape"] = answer
            if text.startswith("what is the"):
                found[picture]["colour"] = last
        else:
            negated, what = asked(text)
            if (answer == "yes") != negated:
                word = what.removesuffix(" shape")
                found[picture]["shape" if word == what else "colour"] = word
    return found


def asked(text: str) -> tuple[bool, str]:
    """Return whether a yes/no question is negated, and the noun that it asks for. Raises ValueError."""
    match = _YES_NO.fullmatch(text)
    if match is None:
        raise ValueError(f"not a yes/no question of easy-VQA: {text!r}")
    return match["no"] is not None, match["what"]


def statements(questions: Sequence[Question]) -> list[Statement]:
    """Return the statements about pictures whose shape and colour are on the card."""
    rng = random.Random(SEED)
    shown = {
        picture: (facts["shape"], facts["colour"])
        for picture, facts in contents(questions).items()
        if facts.get("shape") in SHAPES and facts.get("colour") in COLOURS
    }
    return [
        statement
        for text, answer, picture in questions
        if picture in shown
        for statement in _about(rng, text, answer, picture, *shown[picture])
    ]


def _about(
    rng: random.Random, text: str, answer: str, picture: int, shape: str, colour: str
) -> Iterator[Statement]:
    """Yield the statements of one question; none when it asks for something that is not on the card."""
    if not text.startswith("what"):
        negated, noun = asked(text)
        if noun.removesuffix(" shape") in (*SHAPES, *COLOURS):
            words = rng.choice(ABSENT if negated else PRESENT).format(noun=noun, a=a(noun))
            yield Statement(picture, words, answer.title(), "negation" if negated else "existence")
    elif "color" in text:
        noun = text.removesuffix("?").split()[-1]
        for label, name in (("Yes", colour), ("No", _other(rng, COLOURS, colour))):
            words = rng.choice(COLOURED).format(noun=noun, colour=name)
            yield Statement(picture, words, label, "colour")
    else:
        for label, name in (("Yes", shape), ("No", _other(rng, SHAPES, shape))):
            noun = f"{colour} {name}" if text.startswith("what is the") else name
            words = rng.choice(PRESENT).format(noun=noun, a=a(noun))
            yield Statement(picture, words, label, "existence")


def _other(rng: random.Random, names: Sequence[str], name: str) -> str:
    return rng.choice([other for other in names if other != name])


def write(folder: Path) -> tuple[int, int, int]:
    """Write `pairs.csv` and `pictures/`. Return the numbers of questions, used pictures and statements."""
    questions = list(zip(*easy_vqa.get_test_questions(), strict=True))
    found = statements(questions)
    paths = easy_vqa.get_test_image_paths()
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    used = {one.picture for one in found}
    for picture in used:
        shutil.copy(paths[picture], folder / "pictures" / f"{picture}.png")
    with (folder / "pairs.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "text", "label", "category"))
        for one in found:
            writer.writerow((f"pictures/{one.picture}.png", one.text, one.label, one.category))
    return len(questions), len(used), len(found)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    questions, pictures, pairs = write(parser.parse_args().folder)
    print(f"{pairs} pairs about {pictures} of 1000 pictures, from {questions} questions")


if __name__ == "__main__":
    main()

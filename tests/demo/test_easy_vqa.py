"""The statements made of easy-VQA's questions are true of its pictures, judged by their pixels alone."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lab.demo_training.easy_vqa import asked, contents, statements, write
from lab.demo_training.world import COLOURS, SHAPES

RGB = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "black": (0,) * 3,
}


def seen(path: Path) -> set[str]:
    """Return the colour and shape of a picture: a triangle is wider at its foot than in its middle."""
    pixels = np.asarray(Image.open(path).convert("RGB"))
    for colour, rgb in RGB.items():
        rows = (pixels == rgb).all(-1).sum(1)
        widths = rows[rows > 0]
        if len(widths):
            return {colour, "triangle" if widths[-1] > widths[len(widths) // 2] else "circle"}
    raise AssertionError(f"no colour of the card in {path}")


def test_every_statement_agrees_with_its_pictures_pixels(tmp_path: Path) -> None:
    questions, pictures, count = write(tmp_path)
    assert (questions, pictures, count) == (9673, 354, 3531)
    with (tmp_path / "pairs.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == count
    found = {name: seen(tmp_path / name) for name in {row["image"] for row in rows}}
    for row in rows:
        named = {word for word in row["text"].split() if word in (*SHAPES, *COLOURS)}
        negated = any(word in row["text"].split() for word in ("no", "not", "isn't"))
        assert row["label"] == ("Yes" if (named <= found[row["image"]]) != negated else "No"), row


def test_pictures_of_something_that_is_not_on_the_card_are_left_out() -> None:
    questions = [
        ("what is the color of the rectangle?", "red", 1),
        ("is a circle present?", "no", 1),
        ("what color is the circle?", "teal", 2),
        ("is there a gray shape?", "no", 3),
        ("what is the red shape?", "triangle", 3),
        ("is there a blue shape?", "yes", 4),
    ]
    assert contents(questions)[1] == {"shape": "rectangle", "colour": "red"}
    assert contents(questions)[4] == {"colour": "blue"}
    made = statements(questions)
    assert {(one.picture, one.label) for one in made} == {(3, "Yes"), (3, "No")}
    assert "red triangle" in made[0].text


@pytest.mark.parametrize(
    ("question", "meaning"),
    [
        ("is there not a red shape in the image?", (True, "red shape")),
        ("does the image contain a circle?", (False, "circle")),
        ("does the image not contain a circle?", (True, "circle")),
        ("is no blue shape present?", (True, "blue shape")),
        ("is a yellow shape present?", (False, "yellow shape")),
    ],
)
def test_negated_questions_are_recognised(question: str, meaning: tuple[bool, str]) -> None:
    assert asked(question) == meaning

"""The committed weights: minimum accuracy, the page's examples, and the pairs used by other tests."""

from __future__ import annotations

import json
import math
import re

import pytest
from PIL import Image, ImageDraw

from lab.demo_training.card import KNOWN
from lab.demo_training.evaluate import BEGIN, END, SURE, judge
from lab.demo_training.pairs import RENDERERS, held_out
from ofa.errors import TextError
from ofa.model import EntailmentModel
from ofa.pair import Pair

from . import DEMO

CARD = json.loads((DEMO / "card.json").read_text(encoding="utf-8"))
PAIRS = 240
#: 4 % and 2 % of the pairs; the counts are the same in every run.
MOST_WRONG, MOST_SURE_AND_WRONG = 9, 4


@pytest.fixture(scope="module")
def model() -> EntailmentModel:
    return EntailmentModel.load(DEMO)


def label(model: EntailmentModel, picture: Image.Image, text: str) -> tuple[str, float]:
    scores = model.judge([Pair(picture, text)])[0]
    best = max(scores, key=lambda name: scores[name])
    return best, scores[best]


@pytest.mark.parametrize("renderer", RENDERERS)
def test_accuracy_and_calibration_are_above_their_floors(model: EntailmentModel, renderer: str) -> None:
    judged = judge(model, held_out(PAIRS, CARD["categories"], renderer, seed=42_000_017), quiet=True)
    sure = [one for one in judged if one.confidence > SURE]
    assert sum(not one.right for one in judged) <= MOST_WRONG
    assert len(sure) > 0.8 * PAIRS
    assert sum(not one.right for one in sure) <= MOST_SURE_AND_WRONG


def test_the_cards_table_lists_the_known_categories_with_95_percent_within_its_error() -> None:
    card = (DEMO / "README.md").read_text(encoding="utf-8")
    table = card.split(BEGIN)[1].split(END)[0]
    rows = [
        [cell.strip(" *") for cell in line.split("|")[1:-1]] for line in table.splitlines() if "|" in line
    ]
    assert rows[0] == ["category", "pairs", *(f"{name} renderer" for name in RENDERERS), "words alone"]
    measured = {cells[0]: cells[1:-1] for cells in rows[2:]}
    assert [*measured] == [*CARD["categories"], "all"] == [*KNOWN, "all"]
    for category, (pairs, *cells) in measured.items():
        floor = 95 - 2 * math.sqrt(95 * 5 / int(pairs))  # two standard errors
        assert min(float(cell.removesuffix("%")) for cell in cells) >= floor, category
    described = re.findall(r"^\| ([a-z ]+) \| [^|]+ \|$", card, re.M)
    assert [name for name in described if name != "category"] == CARD["categories"]


@pytest.mark.parametrize("example", CARD["examples"], ids=lambda example: example["category"])
def test_the_pages_examples_are_judged_as_the_card_says(
    model: EntailmentModel, example: dict[str, str]
) -> None:
    with Image.open(DEMO / example["image"]) as picture:
        best, confidence = label(model, picture.convert("RGB"), example["hypothesis"])
    assert best == example["label"]
    assert confidence > 0.8


def test_the_card_explains_one_example_of_each_category_in_both_languages() -> None:
    assert [example["category"] for example in CARD["examples"]] == CARD["categories"]
    for example in CARD["examples"]:
        assert example["explain"]["en"]
        assert example["explain"]["zh"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("there is a red circle", "Yes"),
        ("There is a red circle.", "Yes"),
        ("There's a red circle", "Yes"),
        ("there is red circle", "Yes"),
        ("THE CIRCLE IS RED.", "Yes"),
        ("there is a blue star", "No"),
        ("There's a blue star.", "No"),
        ("the circle is blue", "No"),
        ("the circle is heavy", "Maybe"),
        ("The circle is heavy.", "Maybe"),
        ("circle is heavy", "Maybe"),
    ],
)
@pytest.mark.parametrize("box", [(64, 64, 192, 192), (20, 30, 90, 100), (150, 140, 230, 220)])
def test_a_plain_red_circle_is_recognised(
    model: EntailmentModel, text: str, expected: str, box: tuple[int, int, int, int]
) -> None:
    picture = Image.new("RGB", (256, 256), "white")
    ImageDraw.Draw(picture).ellipse(box, fill="red")
    assert label(model, picture, text)[0] == expected


def test_the_health_probe_gets_a_confident_maybe(model: EntailmentModel) -> None:
    best, confidence = label(model, Image.new("RGB", (64, 64), (128, 128, 128)), "a photo")
    assert best == "Maybe"
    assert confidence > 0.95


def test_a_premise_is_refused(model: EntailmentModel) -> None:
    with pytest.raises(TextError):
        model.judge([Pair(Image.new("RGB", (64, 64)), "there is a circle", "it is night")])


def test_the_weights_fit_the_repository() -> None:
    assert (DEMO / "pytorch_model.bin").stat().st_size <= 20_000_000

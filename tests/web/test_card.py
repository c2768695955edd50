"""A model's card and its examples; an invalid one never breaks the page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from page import card


def write(folder: Path, **changes: Any) -> None:
    content: dict[str, Any] = {
        "name": "shapes",
        "knows": {"en": "Shapes.", "zh": "形状。"},
        "examples": [{"image": "one.png", "hypothesis": "there is a circle", "premise": None}],
    }
    (folder / "one.png").write_bytes(b"")
    (folder / "card.json").write_text(json.dumps({**content, **changes}))


def test_a_folders_card_is_read(tmp_path: Path) -> None:
    write(tmp_path)
    shown = card.load(str(tmp_path))
    assert (shown.name, shown.knows["zh"]) == ("shapes", "形状。")
    assert shown.examples == (card.Example(tmp_path / "one.png", "there is a circle"),)


def test_an_example_has_its_label_only_with_an_explanation_in_every_language(tmp_path: Path) -> None:
    whole = {"image": "one.png", "hypothesis": "x", "label": "No", "explain": {"en": "why", "zh": "因为"}}
    halves = [{**whole, "label": "Perhaps"}, {key: whole[key] for key in ("image", "hypothesis", "label")}]
    write(tmp_path, examples=[whole, *halves])
    first, *others = card.load(str(tmp_path)).examples
    assert (first.label, first.why) == ("No", {"en": "why", "zh": "因为"})
    assert [(other.label, other.why) for other in others] == [(None, {})] * 2


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"name":' + "9" * 5_000 + "}",
        "",
        "{",
        "[]",
        '{"name": 1}',
        '{"name": "x", "knows": {"en": "x"}}',
    ],
)
def test_an_invalid_card_falls_back_to_the_demo_examples(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = tmp_path / "demo"
    demo.mkdir()
    write(demo)
    monkeypatch.setattr(card, "DEMO", demo)
    (tmp_path / "card.json").write_text(text)
    shown = card.load(str(tmp_path))
    assert shown.knows == {}
    assert [example.hypothesis for example in shown.examples] == ["there is a circle"]


def test_a_hub_id_has_the_demo_examples_and_no_description(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path)
    monkeypatch.setattr(card, "DEMO", tmp_path)
    shown = card.load("owner/name")
    assert shown.knows == {}
    assert len(shown.examples) == 1


def test_a_card_cannot_show_files_outside_its_folder(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"")
    model = tmp_path / "model"
    model.mkdir()
    write(model, examples=[{"image": "../secret.png", "hypothesis": "x"}])
    assert all(example.image != secret for example in card.load(str(model)).examples)


@pytest.mark.parametrize(
    "change",
    [
        {"image": "a" * 5_000},
        {"image": "a\0b"},
        {"image": "loop.png"},
        {"image": "absent.png"},
        {"image": 5},
        {"hypothesis": ["x"]},
        {"hypothesis": "\ud800"},
        {"hypothesis": "x" * 5_000},
        {"premise": {"x": 1}},
        {"label": "No", "explain": {"en": 5}},
    ],
    ids=lambda change: str(change)[:30],
)
def test_an_invalid_example_is_skipped(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "loop.png").symlink_to("loop.png")
    good = {"image": "one.png", "hypothesis": "good"}
    write(tmp_path, examples=["x", {**good, **change}, good])
    shown = card.load(str(tmp_path))
    assert (shown.name, [example.hypothesis for example in shown.examples]) == ("shapes", ["good"])


@pytest.mark.parametrize(
    ("prompt", "takes"),
    [(" {} ?", False), (' "{}" imply "{}"?', True), (None, True), ("no slot", True)],
)
def test_a_prompt_with_one_slot_takes_no_premise(tmp_path: Path, prompt: str | None, takes: bool) -> None:
    write(tmp_path)
    model = {} if prompt is None else {"prompt": prompt}
    (tmp_path / "configuration.json").write_text(json.dumps({"model": model}))
    assert card.load(str(tmp_path)).takes_premise is takes


def test_examples_are_few_and_spread_over_the_list(tmp_path: Path) -> None:
    write(tmp_path, examples=[{"image": "one.png", "hypothesis": str(index)} for index in range(32)])
    chosen = [int(example.hypothesis) for example in card.load(str(tmp_path)).examples]
    assert chosen == [0, 2, 5, 8, 10, 13, 16, 18, 21, 24, 26, 29]

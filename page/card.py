"""What the served model says about itself: ``card.json`` in its folder, and the examples that go with it.

A model from the hub brings no card; then the demo model's pictures stand in as neutral examples.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from page.words import LANGUAGES, Language
from service.request import LABELS

log = logging.getLogger(__name__)

DEMO = Path(__file__).resolve().parent.parent / "models" / "demo"
SHOWN = 12


@dataclass(frozen=True)
class Example:
    """A picture and a question that can be tried with one click.

    ``label`` is the right answer and ``why`` its reason in each language; both may be missing.
    """

    image: Path
    hypothesis: str
    premise: str | None = None
    label: str | None = None
    why: dict[Language, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """``knows`` says in each language what the model was trained for; empty without a card.

    ``takes_premise`` is False where the model's own prompt is known to have no place for a premise.
    """

    name: str = ""
    knows: dict[Language, str] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    takes_premise: bool = True


def folder_of(model: str) -> Path | None:
    """The local folder behind ``--model``, or None for a hub id, whose folder is known only once fetched."""
    if model == "demo":
        return DEMO
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else None


def load(model: str) -> Card:
    """The card of the served model. Never fails: a missing or broken card only leaves the page poorer."""
    folder = folder_of(model)
    card = _read(folder) if folder else None
    if card is None:
        neutral = _read(DEMO)
        card = Card(examples=neutral.examples if neutral else ())
    return replace(card, takes_premise=folder is None or _takes_premise(folder))


def _takes_premise(folder: Path) -> bool:
    """False only if the configured prompt has one slot; anything odd is for the loader to refuse."""
    try:
        configuration = json.loads((folder / "configuration.json").read_text(encoding="utf-8"))
        return str(configuration["model"]["prompt"]).count("{}") != 1
    except (OSError, ValueError, KeyError, TypeError):
        return True


def _read(folder: Path) -> Card | None:
    path = folder / "card.json"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        knows = {language: str(content["knows"][language]) for language in LANGUAGES}
        examples = tuple(_example(folder, entry) for entry in content.get("examples", []))
        return Card(str(content["name"]), knows, _varied(examples))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning(
            "The model's card.json cannot be used (%s); the page goes without it.", type(error).__name__
        )
        return None


def _example(folder: Path, entry: dict[str, Any]) -> Example:
    image = (folder / entry["image"]).resolve()
    if not image.is_relative_to(folder.resolve()):  # a card comes with a model from anywhere
        raise ValueError("an example's picture lies outside the model's folder")
    label = entry.get("label")
    why: dict[Language, str] = {}
    if label in LABELS and entry.get("explain"):
        why = {language: str(entry["explain"][language]) for language in LANGUAGES}
    return Example(image, str(entry["hypothesis"]), entry.get("premise") or None, label if why else None, why)


def _varied(examples: tuple[Example, ...]) -> tuple[Example, ...]:
    """At most SHOWN examples, evenly spread over the list, whose pictures exist."""
    there = [example for example in examples if example.image.is_file()]
    step = max(1.0, len(there) / SHOWN)
    return tuple(there[int(index * step)] for index in range(min(SHOWN, len(there))))

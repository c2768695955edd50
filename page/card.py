"""What the served model says about itself: ``card.json`` in its folder, and the examples that go with it.

A model from the hub brings no card; then the demo model's pictures stand in as neutral examples.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from ofa import documents
from page.words import LANGUAGES, Language
from service.contract.request import LABELS

log = logging.getLogger(__name__)

DEMO = Path(__file__).resolve().parent.parent / "models" / "demo"
SHOWN = 12
MAX_SENTENCE: Final = 1000  # characters


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
        configuration: Any = documents.read_json(folder / "configuration.json")
        return str(configuration["model"]["prompt"]).count("{}") != 1
    except (OSError, ValueError, LookupError, TypeError):
        return True


def _read(folder: Path) -> Card | None:
    try:
        content: Any = documents.read_json(folder / "card.json")
        name, knows = _sentence(content["name"]), _in_each_language(content["knows"])
        examples = [_example(folder, entry) for entry in content.get("examples") or ()]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError) as error:
        log.warning(
            "The model's card.json cannot be used (%s); the page goes without it.", type(error).__name__
        )
        return None
    return Card(name, knows, _varied([example for example in examples if example is not None]))


def _example(folder: Path, entry: Any) -> Example | None:
    """None for an example that cannot be shown: it costs itself alone."""
    try:
        image = (folder / entry["image"]).resolve()
        if not image.is_relative_to(folder.resolve()) or not image.is_file():
            return None  # a card comes with a model from anywhere
        premise, label, why = entry.get("premise"), entry.get("label"), entry.get("explain")
        explained = label in LABELS and why
        return Example(
            image,
            _sentence(entry["hypothesis"]),
            _sentence(premise) if premise else None,
            label if explained else None,
            _in_each_language(why) if explained else {},
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError):  # the last for loops
        return None


def _in_each_language(texts: Any) -> dict[Language, str]:
    return {language: _sentence(texts[language]) for language in LANGUAGES}


def _sentence(text: object) -> str:
    """A text that the page can show. Raises ValueError."""
    if not isinstance(text, str) or len(text) > MAX_SENTENCE:
        raise ValueError("not a sentence")
    text.encode()  # UnicodeEncodeError, which is a ValueError, for half a surrogate pair
    return text


def _varied(examples: Sequence[Example]) -> tuple[Example, ...]:
    """At most SHOWN examples, evenly spread over the list."""
    step = max(1.0, len(examples) / SHOWN)
    return tuple(examples[int(index * step)] for index in range(min(SHOWN, len(examples))))

"""The model's description and examples: ``card.json`` in its folder.

Models from the hub have none; then the demo model's examples are shown.
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
MAX_EXAMPLES: Final = 12
MAX_SENTENCE: Final = 1000  # characters


@dataclass(frozen=True)
class Example:
    """A picture and a hypothesis; ``label`` is the correct answer and ``why`` explains it, both optional."""

    image: Path
    hypothesis: str
    premise: str | None = None
    label: str | None = None
    why: dict[Language, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """``knows`` describes in each language what the model was trained on; empty without a ``card.json``.

    ``takes_premise`` is False if the model's prompt is known to have no slot for a premise.
    """

    name: str = ""
    knows: dict[Language, str] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    takes_premise: bool = True


def folder_of(model: str) -> Path | None:
    """Return the folder of ``--model``, or None for a hub id, whose folder is unknown before the download."""
    if model == "demo":
        return DEMO
    folder = Path(model).expanduser()
    return folder if folder.is_dir() else None


def load(model: str) -> Card:
    """Return the card of the served model; a missing or invalid one never fails the page."""
    folder = folder_of(model)
    card = _read(folder) if folder else None
    if card is None:
        demo = _read(DEMO)
        card = Card(examples=demo.examples if demo else ())
    return replace(card, takes_premise=folder is None or _takes_premise(folder))


def _takes_premise(folder: Path) -> bool:
    """Whether the configured prompt may take a premise; invalid configurations are left to the loader."""
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
        log.warning("MODEL_CARD_INVALID | ERROR=%s", type(error).__name__)
        return None
    return Card(name, knows, _spread([example for example in examples if example is not None]))


def _example(folder: Path, entry: Any) -> Example | None:
    """Return an example, or None for an invalid one."""
    try:
        image = (folder / entry["image"]).resolve()
        if not image.is_relative_to(folder.resolve()) or not image.is_file():
            return None  # the card is untrusted: it must not name files outside its folder
        premise, label, why = entry.get("premise"), entry.get("label"), entry.get("explain")
        explained = label in LABELS and why
        return Example(
            image,
            _sentence(entry["hypothesis"]),
            _sentence(premise) if premise else None,
            label if explained else None,
            _in_each_language(why) if explained else {},
        )
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
    ):  # RuntimeError: a symlink loop
        return None


def _in_each_language(texts: Any) -> dict[Language, str]:
    return {language: _sentence(texts[language]) for language in LANGUAGES}


def _sentence(text: object) -> str:
    """Return a text that the page can show. Raises ValueError."""
    if not isinstance(text, str) or len(text) > MAX_SENTENCE:
        raise ValueError("not a sentence")
    text.encode()  # raises UnicodeEncodeError, a ValueError, for a lone surrogate
    return text


def _spread(examples: Sequence[Example]) -> tuple[Example, ...]:
    """Return at most MAX_EXAMPLES, evenly spread over the list."""
    step = max(1.0, len(examples) / MAX_EXAMPLES)
    return tuple(examples[int(index * step)] for index in range(min(MAX_EXAMPLES, len(examples))))

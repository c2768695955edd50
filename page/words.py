"""Every word the page says, in English and Chinese (``text/*.json``), and which of them a request wants.

Static words (``STATIC``) go to the browser, which picks the language itself; ``DYNAMIC`` ones depend on an
answer and are picked here by the request's Accept-Language header. Both browsers' ways lead to the same
language. Texts are plain: they are escaped where they are put into HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)
DEFAULT: Final[Language] = "en"

_TEXTS: Final = {
    language: json.loads((Path(__file__).parent / "text" / f"{language}.json").read_text(encoding="utf-8"))
    for language in LANGUAGES
}
STATIC: Final[Mapping[Language, Mapping[str, str]]] = {name: _TEXTS[name]["static"] for name in LANGUAGES}
DYNAMIC: Final[Mapping[Language, Mapping[str, str]]] = {name: _TEXTS[name]["dynamic"] for name in LANGUAGES}


def language_of(accept_language: str | None) -> Language:
    """The language a browser prefers, from its Accept-Language header (RFC 9110, 12.5.4).

    The supported one with the highest weight, the first of equals; English when none is asked for.
    """
    best: Language = DEFAULT
    best_weight = 0.0
    for entry in (accept_language or "").split(","):
        tag, *parameters = (part.strip() for part in entry.split(";"))
        primary = tag.lower().split("-")[0]
        weight = _weight(parameters)
        for language in LANGUAGES:
            if primary == language and weight > best_weight:
                best, best_weight = language, weight
    return best


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def say(language: Language, key: str, **facts: object) -> str:
    """A dynamic text in ``language`` with its figures filled in; KeyError for an unknown key."""
    return DYNAMIC[language][key].format(**facts)


def has(key: str) -> bool:
    """Whether there is a dynamic text under ``key``."""
    return key in DYNAMIC[DEFAULT]

"""Every word the page says, in English and Chinese (``text/*.json``), and which of them a request wants.

Static words (``STATIC``) go to the browser, which picks the language itself; ``DYNAMIC`` ones depend on an
answer and are picked here by the request's Accept-Language header. Both browsers' ways lead to the same
language. Texts are plain: they are escaped where they are put into HTML.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from service.texts import LANGUAGES, Language, load_texts

__all__ = ["DEFAULT", "DYNAMIC", "LANGUAGES", "STATIC", "Language", "has", "language_of", "say"]

DEFAULT: Final[Language] = "en"
TEXTS: Final = Path(__file__).parent / "text"
STATIC: Final = load_texts(TEXTS, "static")
DYNAMIC: Final = load_texts(TEXTS, "dynamic")


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

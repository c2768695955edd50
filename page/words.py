"""The page's texts in English and Chinese (``text/*.json``), and the choice of the language for a request.

The browser gets all ``STATIC`` and ``BATCH`` texts and picks the language; ``DYNAMIC`` texts depend on an
answer and are picked here by Accept-Language. Both lead to the same language. Texts are plain: escape them in
HTML.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

from service.http.language import DEFAULT, language_of
from service.texts import LANGUAGES, Language, load_texts

__all__ = [
    "BATCH",
    "DEFAULT",
    "DYNAMIC",
    "LANGUAGES",
    "STATIC",
    "Language",
    "has",
    "language_of",
    "say",
    "say_html",
]

TEXTS: Final = Path(__file__).parent / "text"
STATIC: Final = load_texts(TEXTS, "static")
DYNAMIC: Final = load_texts(TEXTS, "dynamic")
BATCH: Final = load_texts(TEXTS, "batch")


def say(language: Language, key: str, **values: object) -> str:
    """Return a dynamic text with its values filled in. Raises KeyError for an unknown key."""
    return DYNAMIC[language][key].format(**values)


def say_html(language: Language, key: str, **values: object) -> str:
    """Return a dynamic text, escaped for HTML. Raises KeyError for an unknown key."""
    return escape(say(language, key, **values))


def has(key: str) -> bool:
    """Whether there is a dynamic text under ``key``."""
    return key in DYNAMIC[DEFAULT]

"""The page's texts in English and Chinese (``text/*.json``), and the choice of the language for a request.

The browser gets all ``STATIC`` texts and picks the language; ``DYNAMIC`` texts depend on an answer and are
picked here by Accept-Language. Both lead to the same language. Texts are plain: escape them in HTML.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Final

from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

from service.texts import LANGUAGES, Language, load_texts

__all__ = ["DEFAULT", "DYNAMIC", "LANGUAGES", "STATIC", "Language", "has", "language_of", "say", "say_html"]

DEFAULT: Final[Language] = "en"
TEXTS: Final = Path(__file__).parent / "text"
STATIC: Final = load_texts(TEXTS, "static")
DYNAMIC: Final = load_texts(TEXTS, "dynamic")


def language_of(accept_language: str | None) -> Language:
    """Return the supported language with the highest weight in an Accept-Language header, else English.

    Only primary tags count: ``zh-Hant-TW`` is ``zh``, which werkzeug's own ``best_match`` may miss.
    """
    for tag, weight in parse_accept_header(accept_language, Accept):  # the highest weight first
        primary = tag.lower().partition("-")[0]
        for language in LANGUAGES:
            if primary == language and weight > 0:
                return language
    return DEFAULT


def say(language: Language, key: str, **values: object) -> str:
    """Return a dynamic text with its values filled in. Raises KeyError for an unknown key."""
    return DYNAMIC[language][key].format(**values)


def say_html(language: Language, key: str, **values: object) -> str:
    """Return a dynamic text, escaped for HTML. Raises KeyError for an unknown key."""
    return escape(say(language, key, **values))


def has(key: str) -> bool:
    """Whether there is a dynamic text under ``key``."""
    return key in DYNAMIC[DEFAULT]

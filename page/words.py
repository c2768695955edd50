"""The page's texts in English and Chinese (``text/*.json``), and the choice of the language for a request.

The browser gets all ``STATIC`` texts and picks the language; ``DYNAMIC`` texts depend on an answer and are
picked here by Accept-Language. Both lead to the same language. Texts are plain: escape them in HTML.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Final, Literal, get_args

from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

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

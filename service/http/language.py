"""The language of an answer, by Accept-Language."""

from __future__ import annotations

from typing import Final

from werkzeug.datastructures import Accept
from werkzeug.http import parse_accept_header

from service.texts import LANGUAGES, Language

DEFAULT: Final[Language] = "en"


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

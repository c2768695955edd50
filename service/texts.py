"""Texts for people in every language: one JSON file per language in a package's ``text`` folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Literal, get_args

Language = Literal["en", "zh"]
LANGUAGES: Final[tuple[Language, ...]] = get_args(Language)


def load_texts(folder: Path, section: str) -> Mapping[Language, Mapping[str, str]]:
    """Return a section of ``<language>.json`` for every language: texts by key, some with {placeholders}."""
    return {
        language: json.loads((folder / f"{language}.json").read_text(encoding="utf-8"))[section]
        for language in LANGUAGES
    }

"""The host of the rows: its HTML with the texts, and the script that draws them."""

from __future__ import annotations

import json
from html import escape
from pathlib import Path
from typing import Final, Literal

from page import verdicts
from page.words import DYNAMIC, STATIC, Language
from service.contract.causes import InputCode
from service.contract.errors import InputError

Access = Literal["open", "key", "login"]

FOLDER: Final = Path(__file__).resolve().parent
FILES: Final = ("pictures", "history", "copying", "rows", "ask", "form", "keys", "restore")
#: One function of Gradio's, so that the files share its ``element`` and ``trigger``.
SCRIPT: Final = "\n".join((FOLDER / f"{name}.js").read_text(encoding="utf-8") for name in FILES)

DYNAMIC_WORDS: Final = ("rows.", "label.", "meaning.")
WORDS: Final = ("probabilities", "none.title", "none.lead", "pending.title", "input.title")
STATIC_WORDS: Final = ("empty_title", "empty_text")


def frame(language: Language, access: Access) -> str:
    """Return the HTML of the empty host. ``access`` is what a call of the API needs."""
    words = {
        key: text for key, text in DYNAMIC[language].items() if key.startswith(DYNAMIC_WORDS) or key in WORDS
    }
    words |= {key: STATIC[language][key] for key in STATIC_WORDS}
    refused = InputError("", code=InputCode.NOT_AN_IMAGE)
    words["not_an_image"] = verdicts.input_error_text(refused, language)
    data = escape(json.dumps(words, ensure_ascii=False))
    return f'<div id="rows" data-words="{data}" data-access="{access}"></div>'

"""The text of HTML."""

from __future__ import annotations

import re


def text_of(html: str) -> str:
    """Return the text between the tags, with single spaces."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).strip()

"""Clean text for the tokenizer without changing its meaning.

Removed, and counted by kind: lone surrogates, control characters, zero-width and other format characters
(direction marks, tags, variation selectors), private-use and unassigned code points, and more stacked
combining marks than any language uses. All kinds of space become U+0020. The rest is normalised to NFC, not
NFKC, because x² is not x2.
"""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from service.contract.errors import InputError, InvalidTexts
from service.intake.language import check

ZERO_WIDTH: Final = frozenset("\u00ad\u180e\u200b\u200c\u200d\u2060\u2061\u2062\u2063\u2064\ufeff")
KINDS: Final[Mapping[str, str]] = {
    "Cs": "surrogate",
    "Cc": "control",
    "Cf": "format",
    "Co": "private",
    "Cn": "unassigned",
}
MAX_MARKS: Final = 4  # on one letter; fully marked Vietnamese and Hebrew use fewer


@dataclass(frozen=True, slots=True)
class Texts:
    """Cleaned texts, and the characters removed from both, by kind."""

    hypothesis: str
    premise: str | None
    removed: Mapping[str, int]


def prepare(text: object, premise: object, max_chars: int, language: str | None) -> Texts:
    """Clean both texts. A blank premise becomes None. ``language`` is the model's; None accepts any.

    Raises InputError: ``no_text``, ``text_too_long``, ``language``.
    """
    return prepare_all([text], premise, max_chars, language)[0]


def prepare_all(
    texts: Sequence[object], premise: object, max_chars: int, language: str | None
) -> list[Texts]:
    """Clean several texts with one premise.

    Raises InvalidTexts for all texts that cannot be judged, InputError for the premise.
    """
    prepared: list[tuple[str, Counter[str]]] = []
    found: list[tuple[int, InputError]] = []
    for index, text in enumerate(texts):
        try:
            prepared.append(_hypothesis(text, max_chars, language))
        except InputError as error:
            found.append((index, error))
    if found:
        raise InvalidTexts(found)
    gone: Counter[str] = Counter()
    cleaned = _cleaned(premise, "The premise", max_chars, gone) or None
    check(cleaned or "", language, "The premise")
    return [Texts(hypothesis, cleaned, dict(removed + gone)) for hypothesis, removed in prepared]


def clean(text: str) -> tuple[str, Counter[str]]:
    """Return the cleaned text and the number of removed characters by kind."""
    removed: Counter[str] = Counter()
    # A surrogate pair that arrived as two code points is one character.
    joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
    kept: list[str] = []
    marks = 0
    for char in unicodedata.normalize("NFC", joined):
        category = unicodedata.category(char)
        marks = marks + 1 if category in ("Mn", "Me") else 0
        if char in "\t\n\v\f\r\x85" or category in ("Zs", "Zl", "Zp"):
            kept.append(" ")
        elif kind := _kind(char, category, marks):
            removed[kind] += 1
        else:
            kept.append(char)
    # Again, since a removed character may have separated a letter from its accent.
    return unicodedata.normalize("NFC", "".join(kept)).strip(), removed


def _kind(char: str, category: str, marks: int) -> str | None:
    """Why this character is removed; None if it is kept."""
    if char in ZERO_WIDTH:
        return "zero_width"
    if "\ufe00" <= char <= "\ufe0f" or "\U000e0100" <= char <= "\U000e01ef":
        return "format"
    return KINDS.get(category) or ("marks" if marks > MAX_MARKS else None)


def _hypothesis(text: object, max_chars: int, language: str | None) -> tuple[str, Counter[str]]:
    removed: Counter[str] = Counter()
    hypothesis = _cleaned(text, "The text", max_chars, removed)
    if not hypothesis:
        raise InputError(
            "There is no text to judge." if not removed else "The text has no readable characters.",
            code="no_text",
            remedy="Type what the picture might show, e.g. “there is a red circle”.",
        )
    check(hypothesis, language, "The text")
    return hypothesis, removed


def _cleaned(text: object, what: str, max_chars: int, removed: Counter[str]) -> str:
    if text is None:
        return ""
    if not isinstance(text, str):
        raise InputError(f"{what} is not a string.", code="no_text", remedy="Send a string.")
    if len(text) > max_chars:
        raise InputError(
            f"{what} has {len(text)} characters; at most {max_chars} are allowed.",
            code="text_too_long",
            remedy="Shorten it to one sentence.",
            length=len(text),
            limit=max_chars,
        )
    cleaned, gone = clean(text)
    removed.update(gone)
    return cleaned

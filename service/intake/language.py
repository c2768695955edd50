"""Refuse a text that is mostly in a script which the model's language does not use.

A model answers any text, a foreign one as confidently as its own. Letters are counted by script; quoted
words, digits, symbols, emoji and combining marks do not count.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from typing import Final, NamedTuple

from service.contract.causes import InputCode
from service.contract.errors import InputError


class _Language(NamedTuple):
    name: str
    scripts: frozenset[str]  # first words of Unicode character names


#: By ModelScope's ``model.language``; a text for a model of another language is not checked.
LANGUAGES: Final[Mapping[str, _Language]] = {
    "en": _Language("English", frozenset({"LATIN"})),
    "zh": _Language("Chinese", frozenset({"CJK", "IDEOGRAPHIC", "BOPOMOFO"})),
}

#: A letter or digit beside which ' is an apostrophe. CJK has no apostrophes and no spaces beside quotes.
_WORD: Final = r"[^\W\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff]"
#: Quoted words. A quote ends within 500 characters, so that the search stays linear.
_QUOTED: Final = re.compile(
    "|".join(
        (
            r'(?<!\d)"[^"]{0,500}"',  # after a digit it means inches
            r"[“„‟][^“”„‟]{0,500}[“”]",
            r"”[^“”]{0,500}”",
            r"«[^«»]{0,500}»",
            r"»[^«»]{0,500}«",
            r"‹[^‹›]{0,500}›",
            r"「[^「」]{0,500}」",
            r"『[^『』]{0,500}』",
            r"｢[^｢｣]{0,500}｣",
            r"《[^《》]{0,500}》",
            r"〈[^〈〉]{0,500}〉",
            r"[〝〟][^〝〞〟]{0,500}[〞〟]",
            r"＂[^＂]{0,500}＂",
            r"`[^`]{0,500}`",
            rf"(?<!{_WORD})['’‘‚‛](?=\S)(?:[^'’‘‚‛]|(?<={_WORD})['’](?={_WORD})){{1,500}}['’‘](?!{_WORD})",
        )
    )
)


def check(text: str, language: str | None, what: str) -> None:
    """Refuse a cleaned text in a foreign script. ``language`` is the model's, None to accept all texts;
    ``what`` names the text in the message. Raises InputError: ``language``."""
    expected = LANGUAGES.get(language or "")
    if expected is None:
        return
    counted = scripts(text)
    own = sum(count for script, count in counted.items() if script in expected.scripts)
    if 2 * own < counted.total():
        raise InputError(
            f"{what} is mostly in a script that {expected.name}, the model's language, does not use.",
            code=InputCode.LANGUAGE,
            remedy=f"Write it in {expected.name}; words in quotes may be in any script.",
            language=expected.name,
        )


def scripts(text: str) -> Counter[str]:
    """Count the letters outside quotes by script, each named by the first word of its Unicode name. A single
    Greek letter is a symbol, as in 5 µm or Δx."""
    counted: Counter[str] = Counter()
    for script, letters in itertools.groupby(map(_script, _QUOTED.sub(" ", text))):
        count = sum(1 for _ in letters)
        if script and (script, count) != ("GREEK", 1):
            counted[script] += count
    return counted


def _script(char: str) -> str:
    """The script of a letter, "" for any other character. A full-width or mathematical letter has the script
    of the plain one."""
    if char.isascii():
        return "LATIN" if char.isalpha() else ""
    if not unicodedata.category(char).startswith("L"):
        return ""
    plain = unicodedata.normalize("NFKC", char)[0]
    script = unicodedata.name(plain, "").partition(" ")[0].partition("-")[0]
    return "" if script == "MODIFIER" else script

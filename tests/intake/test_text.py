"""Characters removed from texts, characters kept, and refused texts."""

from __future__ import annotations

import unicodedata

import pytest

from service.contract.errors import InputError
from service.intake.text import clean, prepare


@pytest.mark.parametrize(
    ("dirty", "wanted", "removed"),
    [
        ("a red circle", "a red circle", {}),
        ("a \ud83dred\udc00 circle", "a red circle", {"surrogate": 2}),
        ("a\u200b red\u200d\ufeff circle", "a red circle", {"zero_width": 3}),
        ("a\x00 red\x1b[31m\x7f", "a red[31m", {"control": 3}),
        ("\u202ea red\u2066 circle", "a red circle", {"format": 2}),
        ("a red\U000e0041 heart \u2764\ufe0f", "a red heart \u2764", {"format": 2}),
        ("a \ue000red\U0010ffff", "a red", {"private": 1, "unassigned": 1}),
        ("z" + "\u0301" * 9, "\u017a\u0301\u0301\u0301\u0301", {"marks": 4}),
    ],
)
def test_unreadable_characters_are_removed_and_counted_by_kind(
    dirty: str, wanted: str, removed: dict[str, int]
) -> None:
    assert clean(dirty) == (wanted, removed)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("two\u00a0men\u3000on\u2009a\nroad\t", "two men on a road"),
        ("e\u0301", "é"),
        ("x² is not x2, ﬁ stays", "x² is not x2, ﬁ stays"),
        ("图中有一个红色的圆。", "图中有一个红色的圆。"),
        ("שָׁלוֹם Tiếng Việt", "שָׁלוֹם Tiếng Việt"),
        ("\ud83d\ude00", "\U0001f600"),  # two halves of one character are joined
    ],
)
def test_what_carries_meaning_is_kept(text: str, wanted: str) -> None:
    cleaned, removed = clean(text)
    assert sum(removed.values()) == 0
    assert cleaned == unicodedata.normalize("NFC", wanted)


def test_clean_text_survives_a_second_cleaning_and_can_be_encoded() -> None:
    dirty = "a".join(chr(code) for code in [*range(0x3000), *range(0xD7F0, 0xE010), *range(0xFFF0, 0x10010)])
    once, _ = clean(dirty)
    once.encode("utf-8")
    assert clean(once)[0] == once


def test_both_texts_are_counted_together_and_a_blank_premise_is_none() -> None:
    texts = prepare("a\u200b", " \u200b\t", 100, "en")
    assert (texts.hypothesis, texts.premise, texts.removed) == ("a", None, {"zero_width": 2})
    assert prepare("a", " men ", 100, "en").premise == "men"


@pytest.mark.parametrize("text", [None, "", "  \n", "\u200b\ufeff", "\ud800", 7, ["a"]])
def test_no_readable_text_is_refused(text: object) -> None:
    with pytest.raises(InputError) as caught:
        prepare(text, None, 100, "en")
    assert caught.value.code == "no_text"
    assert caught.value.remedy


def test_a_long_text_is_refused_with_the_limit_and_without_the_text() -> None:
    assert prepare("x" * 100, "y" * 100, 100, "en").premise == "y" * 100
    for text, premise in [("x" * 101, None), ("x", "y" * 101)]:
        with pytest.raises(InputError) as caught:
            prepare(text, premise, 100, "en")
        assert caught.value.code == "text_too_long"
        assert caught.value.facts == {"length": 101, "limit": 100}
        assert "101" in caught.value.message
        assert "xx" not in caught.value.message
        assert "yy" not in caught.value.message

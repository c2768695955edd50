"""The texts are complete in both languages, and the language is chosen by the browser's preference."""

from __future__ import annotations

import re
from collections.abc import Mapping
from string import Formatter

import pytest

from page.words import BATCH, DYNAMIC, LANGUAGES, STATIC, has, language_of, say
from service.contract.causes import InputCode
from service.contract.request import LABELS


@pytest.mark.parametrize("words", [STATIC, DYNAMIC, BATCH], ids=["static", "dynamic", "batch"])
def test_both_languages_say_the_same_things(words: Mapping[str, Mapping[str, str]]) -> None:
    assert words["en"].keys() == words["zh"].keys()
    assert [key for language in LANGUAGES for key, text in words[language].items() if not text.strip()] == []


def test_a_translation_uses_the_same_figures() -> None:
    def fields(text: str) -> set[str]:
        return {name for _, name, _, _ in Formatter().parse(text) if name}

    for words in (DYNAMIC, BATCH):
        assert [key for key in words["en"] if fields(words["en"][key]) != fields(words["zh"][key])] == []


@pytest.mark.parametrize("words", [STATIC, DYNAMIC, BATCH], ids=["static", "dynamic", "batch"])
def test_chinese_is_chinese(words: Mapping[str, Mapping[str, str]]) -> None:
    figures_only = {"state.progress"}
    latin = [
        key
        for key, text in words["zh"].items()
        if key not in figures_only and not re.search(r"[\u4e00-\u9fff]", text)
    ]
    assert latin == []


def test_every_input_error_and_every_label_has_words() -> None:
    assert [code for code in InputCode if not has(f"input.{code}")] == []
    assert [code for code in InputCode if f"row.{code}" not in BATCH["en"]] == []
    assert [label for label in LABELS if not has(f"label.{label}") or not has(f"meaning.{label}")] == []


@pytest.mark.parametrize("code", ["timeout", "error", "busy", "loading", "stopping"])
def test_every_reason_has_a_why_and_a_what_to_do(code: str) -> None:
    assert has(f"none.{code}")
    assert has(f"none.{code}.do")


@pytest.mark.parametrize(
    ("header", "language"),
    [
        (None, "en"),
        ("", "en"),
        ("*", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("zh-Hant-TW", "zh"),
        ("zh-Hant-TW,en;q=0.5", "zh"),
        ("zh,en", "zh"),
        ("en-US,en;q=0.9,zh-CN;q=0.8", "en"),
        ("de-DE,de;q=0.9,zh;q=0.5,en;q=0.4", "zh"),
        ("fr", "en"),
        ("en;q=0.2, zh;q=0.7", "zh"),
        ("ZH", "zh"),
        ("zh;q=0, en;q=0.1", "en"),
        ("zh;q=abc", "en"),
        (";;,,;q=1", "en"),
    ],
)
def test_the_language_is_the_one_the_browser_prefers(header: str | None, language: str) -> None:
    assert language_of(header) == language


def test_figures_are_filled_in() -> None:
    assert all(
        "{" not in (text := say(name, "none.busy.do", seconds=4)) and "4" in text for name in LANGUAGES
    )

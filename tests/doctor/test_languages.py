"""Every finding in English and in Chinese, with the same figures; log lines are quoted unchanged."""

from __future__ import annotations

import json
import re
from string import Formatter

import pytest

from doctor import examine
from doctor.findings import PROBLEMS, SEVERITIES, TEXTS, Text
from service.texts import load_texts
from tests.doctor.record import LOGS
from tests.doctor.recordings import RECORDINGS
from tests.doctor.test_commands import doctor

# Flags, programs, files and codes, which are the same in any language.
LITERAL = re.compile(
    r"--[a-z-]+|[A-Z]+_[A-Z_]+|\./guardian\.sh \w+|\w+\.(?:sh|log|pid|md|txt)\b|exit code \d+"
)


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


@pytest.mark.parametrize("section", ["report", "problems"])
def test_both_languages_have_the_same_texts_with_the_same_placeholders(section: str) -> None:
    texts = load_texts(TEXTS, section)
    assert list(texts["en"]) == list(texts["zh"])
    assert [key for key, text in texts["en"].items() if fields(text) != fields(texts["zh"][key])] == []


def test_every_problem_has_texts_and_every_text_a_problem() -> None:
    assert set(PROBLEMS["en"]) == {f"{code}.{part}" for code in SEVERITIES for part in Text._fields}
    assert [key for key, text in PROBLEMS["zh"].items() if not re.search(r"[\u4e00-\u9fff]", text)] == []


@pytest.mark.parametrize("code", SEVERITIES)
def test_both_languages_name_the_same_flags_and_files(code: str) -> None:
    for part in Text._fields:
        english, chinese = (PROBLEMS[language][f"{code}.{part}"] for language in ("en", "zh"))
        named = [word.replace("exit code", "退出码") for word in LITERAL.findall(english)]
        assert [word for word in named if word not in chinese] == []


@pytest.mark.parametrize("name", [one.name for one in RECORDINGS if one.names])
def test_a_recorded_fault_has_its_figures_in_both(name: str) -> None:
    for one in examine(LOGS / name):
        english, chinese = one.text("en"), one.text("zh")
        assert "{" not in "".join((*english, *chinese)), "every placeholder is filled"
        figures = [set(re.findall(r"\d+(?:\.\d+)?", text.diagnosis)) for text in (english, chinese)]
        assert figures[0] <= figures[1]


def test_english_is_the_default_and_chinese_quotes_the_same_lines() -> None:
    chinese, english = doctor(LOGS / "wrong-id", "--lang", "zh"), doctor(LOGS / "wrong-id", "--lang", "en")
    assert english.stdout == doctor(LOGS / "wrong-id").stdout
    assert chinese.returncode == english.returncode == 2
    assert PROBLEMS["zh"]["model-not-found.fix"] in chinese.stdout
    quoted = [line for line in chinese.stdout.splitlines() if line.startswith("    | ")]
    assert quoted
    assert quoted == [line for line in english.stdout.splitlines() if line.startswith("    | ")]


def test_healthy_logs_are_one_line_in_chinese_too() -> None:
    assert len(doctor(LOGS / "healthy", "--lang", "zh").stdout.splitlines()) == 1


def test_json_has_the_same_keys_and_codes_in_either_language() -> None:
    english, chinese = (
        json.loads(doctor(LOGS / "cut", "--json", "--lang", language).stdout) for language in ("en", "zh")
    )
    assert english.keys() == chinese.keys()
    (one,), (two,) = english["findings"], chinese["findings"]
    assert list(one) == list(two)
    assert {key for key in one if one[key] != two[key]} == {"title", "diagnosis", "fix"}


def test_an_unknown_language_is_wrong_usage() -> None:
    refused = doctor(LOGS / "cut", "--lang", "de")
    assert refused.returncode == 64
    assert "--lang" in refused.stderr

"""Every finding in English and in Chinese, with the same figures; the lines of the logs as they stand."""

from __future__ import annotations

import json
import re
from string import Formatter

import pytest

from doctor import examine
from doctor.chinese import CHINESE
from doctor.english import AILMENTS
from tests.doctor.record import LOGS
from tests.doctor.recordings import RECORDINGS
from tests.doctor.test_commands import doctor

# What stands for itself in any language: flags, programs, files, figures, names of the field.
LITERAL = re.compile(
    r"--[a-z-]+|[A-Z]+_[A-Z_]+|\./guardian\.sh \w+|\w+\.(?:sh|log|pid|md|txt)\b|exit code \d+"
)


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(text) if name}


def test_every_ailment_has_words_in_both_languages() -> None:
    assert list(CHINESE) == list(AILMENTS), "in the same order, so that a translator sees both"
    for code, words in CHINESE.items():
        assert [text for text in words if not re.search(r"[\u4e00-\u9fff]", text)] == [], code


@pytest.mark.parametrize("code", AILMENTS)
def test_both_languages_tell_the_same_figures_flags_and_files(code: str) -> None:
    english, chinese = AILMENTS[code], CHINESE[code]
    assert fields(english.diagnosis) == fields(chinese.diagnosis)
    assert fields(english.title + english.cure + chinese.title + chinese.cure) == set()
    for part in ("diagnosis", "cure"):
        named = [word.replace("exit code", "退出码") for word in LITERAL.findall(getattr(english, part))]
        assert [word for word in named if word not in getattr(chinese, part)] == []


@pytest.mark.parametrize("name", [one.name for one in RECORDINGS if one.names])
def test_a_recorded_fault_is_told_in_both(name: str) -> None:
    for one in examine(LOGS / name):
        english, chinese = one.told("en"), one.told("zh")
        assert english == (one.title, one.diagnosis, one.cure)
        assert "{" not in "".join((*english, *chinese)), "every figure is filled in"
        assert set(re.findall(r"\d+(?:\.\d+)?", english.diagnosis)) <= set(
            re.findall(r"\d+(?:\.\d+)?", chinese.diagnosis)
        )


def test_the_doctor_speaks_chinese_when_asked_to_and_english_unless() -> None:
    chinese, english = doctor(LOGS / "wrong-id", "--lang", "zh"), doctor(LOGS / "wrong-id", "--lang", "en")
    assert english.stdout == doctor(LOGS / "wrong-id").stdout
    assert chinese.returncode == english.returncode == 2
    lines = chinese.stdout.splitlines()
    assert lines[0].startswith("严重  model-not-found：没有这个模型（")
    assert "    对策：改正 --model" in chinese.stdout
    assert lines[-1].endswith("发现 1 个问题。")
    quoted = [line for line in lines if line.startswith("    | ")]
    assert quoted
    assert quoted == [line for line in english.stdout.splitlines() if line.startswith("    | ")]


def test_healthy_logs_are_one_line_in_chinese_too() -> None:
    (line,) = doctor(LOGS / "healthy", "--lang", "zh").stdout.splitlines()
    assert line.endswith("没有发现问题。")


def test_a_program_gets_the_same_keys_and_codes_in_either_language() -> None:
    english, chinese = (
        json.loads(doctor(LOGS / "cut", "--json", "--lang", language).stdout) for language in ("en", "zh")
    )
    assert english.keys() == chinese.keys()
    (one,), (two,) = english["findings"], chinese["findings"]
    assert list(one) == list(two)
    differing = {key for key in one if one[key] != two[key]}
    assert differing == {"title", "diagnosis", "cure"}


def test_a_language_it_does_not_speak_is_wrong_usage() -> None:
    told = doctor(LOGS / "cut", "--lang", "de")
    assert told.returncode == 64
    assert "--lang" in told.stderr

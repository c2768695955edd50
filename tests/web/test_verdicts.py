"""What an answer looks like: a verdict, no verdict, and input that cannot be judged."""

from __future__ import annotations

import re

import pytest

from page.verdicts import percent, refusal, refusal_text, seconds, verdict
from page.words import LANGUAGES, Language
from service.contract.errors import InputError
from service.contract.request import LABELS, Verdict

SCORES = {"Yes": 0.921, "No": 0.05, "Maybe": 0.029}
HOSTILE = '<img src=x onerror="alert(1)">'


def decided(scores: dict[str, float] | None = None) -> Verdict:
    return Verdict.of(scores or SCORES, duration=0.4231, device="cuda:0")


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).strip()


@pytest.mark.parametrize(
    ("language", "word", "meta"),
    [("en", "Yes", "0.42 s · on CUDA:0"), ("zh", "是", "用时 0.42 秒 · 运行于 CUDA:0")],
)
def test_a_verdict_shows_its_word_all_three_probabilities_time_and_device(
    language: Language, word: str, meta: str
) -> None:
    html = verdict(decided(), language, limit=15)
    assert f'<h3 class="answer-word">{word}</h3>' in html
    assert re.findall(r"width:([\d.]+)%", html) == ["92.10", "5.00", "2.90"]
    assert [shown in html for shown in ("92.1%", "5.0%", "2.9%")] == [True] * 3
    assert meta in html


@pytest.mark.parametrize("language", LANGUAGES)
def test_next_to_nothing_is_told_as_less_than_can_be_shown(language: Language) -> None:
    html = verdict(decided({"Yes": 0.9994, "No": 0.0006, "Maybe": 0.0000004}), language, limit=15)
    assert re.findall(r"bar-value\">([^<]*)<", html) == ["99.9%", "0.1%", "&lt;0.1%"]


@pytest.mark.parametrize("label", LABELS)
def test_each_label_has_a_look_of_its_own(label: str) -> None:
    scores = {name: 0.8 if name == label else 0.1 for name in LABELS}
    html = verdict(decided(scores), "en", limit=15)
    assert f"answer-{label.lower()}" in html
    assert f"bar-{label.lower()} bar-chosen" in html
    assert html.count("bar-chosen") == 1


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reason", ["timeout", "error", "busy", "loading", "stopping", "something new"])
def test_no_verdict_never_looks_like_one(reason: str, language: Language) -> None:
    html = verdict(Verdict.none(reason, retry_after=3.2), language, limit=15)
    assert "answer-none" in html
    assert "answer-maybe" not in html
    assert "bar" not in html
    assert "%" not in html
    title = {"en": "No verdict This is not an answer of the model.", "zh": "没有判断结果 这不是模型的回答。"}
    assert text_of(html).startswith(title[language])


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (Verdict.none("busy", retry_after=3.2), "Try again in about 4 seconds."),
        (Verdict.none("busy"), "Try again in a moment."),
        (Verdict.none("timeout"), "The model did not finish within 15 seconds."),
        (Verdict.none("loading"), "The model is still loading."),
    ],
)
def test_no_verdict_says_why_and_what_to_do(answer: Verdict, told: str) -> None:
    assert told in text_of(verdict(answer, "en", limit=15.0))


def test_a_model_that_could_not_be_loaded_is_not_said_to_be_loading() -> None:
    told = text_of(verdict(Verdict.none("loading"), "en", limit=15, failed=True))
    assert "could not be loaded" in told
    assert "still loading" not in told


def test_a_reason_of_any_content_is_escaped() -> None:
    assert HOSTILE not in verdict(Verdict.none(HOSTILE), "en", limit=15)


def test_a_refusal_says_what_to_change_with_its_figures() -> None:
    error = InputError("…", code="image_too_large", limit=64_000_000)
    assert "At most 64 million are allowed." in refusal_text(error, "en")
    assert "最多允许 64 百万像素。" in refusal_text(error, "zh")
    error = InputError("…", code="image_bytes_too_large", limit=32 * 1_048_576)
    assert "At most 32 MB are allowed." in refusal_text(error, "en")
    error = InputError("…", code="text_too_long", limit=1000)
    assert "At most 1000 characters are allowed." in refusal_text(error, "en")
    assert "Write one short statement." in refusal_text(InputError("…", code="text_too_long"), "en")


def test_an_unknown_refusal_is_told_in_the_services_own_words_and_escaped() -> None:
    error = InputError(f"No {HOSTILE}.", code="novel", remedy="Do better.")
    assert refusal_text(error, "zh") == f"No {HOSTILE}. Do better."
    assert HOSTILE not in refusal(error, "en")
    assert "&lt;img" in refusal(error, "en")


@pytest.mark.parametrize(
    ("share", "shown"),
    [
        (1.0, "100.0%"),
        (0.99999, "99.9%"),
        (0.9994, "99.9%"),
        (0.0006, "0.1%"),
        (0.0005, "0.1%"),
        (0.00049, "<0.1%"),
        (0.0000004, "<0.1%"),
        (0.0, "<0.1%"),
        (0.5, "50.0%"),
        (0.3333, "33.4%"),
    ],
)
def test_what_is_not_certain_is_never_shown_as_certain(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("duration", "shown"), [(0.004, "0.00"), (0.42, "0.42"), (3.21, "3.2"), (15.2, "15")]
)
def test_durations_have_useful_digits(duration: float, shown: str) -> None:
    assert seconds(duration) == shown

"""What an answer looks like: a verdict, no verdict, and input that cannot be judged."""

from __future__ import annotations

import re
from html import escape

import pytest

from page.verdicts import input_error, input_error_text, percent, seconds, verdict
from page.words import LANGUAGES, Language, say
from service.contract.errors import InputError
from service.contract.request import LABELS, Verdict
from tests.web.html import text_of

SCORES = {"Yes": 0.921, "No": 0.05, "Maybe": 0.029}
HOSTILE = '<img src=x onerror="alert(1)">'


def decided(scores: dict[str, float] | None = None) -> Verdict:
    return Verdict.of(scores or SCORES, duration=0.4231, device="cuda:0")


@pytest.mark.parametrize(
    "language",
    LANGUAGES,
)
def test_a_verdict_shows_its_label_all_probabilities_duration_and_device(language: Language) -> None:
    html = verdict(decided(), language, limit=15)
    assert f'<h3 class="answer-word">{say(language, "label.Yes")}</h3>' in html
    assert re.findall(r"width:([\d.]+)%", html) == ["92.10", "5.00", "2.90"]
    assert [shown in html for shown in ("92.1%", "5.0%", "2.9%")] == [True] * 3
    meta = say(language, "took", seconds="0.42"), say(language, "on_device", device="CUDA:0")
    assert " · ".join(meta) in html


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_tiny_probability_is_shown_as_below_the_smallest_figure(language: Language) -> None:
    html = verdict(decided({"Yes": 0.9994, "No": 0.0006, "Maybe": 0.0000004}), language, limit=15)
    assert re.findall(r"bar-value\">([^<]*)<", html) == ["99.9%", "0.1%", "&lt;0.1%"]


@pytest.mark.parametrize("label", LABELS)
def test_each_label_has_its_own_style(label: str) -> None:
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
    title = f"{say(language, 'none.title')} {say(language, 'none.lead')}"
    assert text_of(html).startswith(escape(title))


@pytest.mark.parametrize(
    ("answer", "remedy"),
    [
        (Verdict.none("busy", retry_after=3.2), "none.busy.do"),
        (Verdict.none("busy"), "none.busy.later"),
        (Verdict.none("timeout"), "none.timeout.do"),
        (Verdict.none("loading"), "none.loading.do"),
    ],
)
def test_no_verdict_says_why_and_what_to_do(answer: Verdict, remedy: str) -> None:
    text = text_of(verdict(answer, "en", limit=15.0))
    assert say("en", f"none.{answer.reason}", limit=15) in text
    assert escape(say("en", remedy, seconds=4)) in text


def test_a_failed_load_is_not_shown_as_loading() -> None:
    text = text_of(verdict(Verdict.none("loading"), "en", limit=15, failed=True))
    assert say("en", "none.failed") in text
    assert say("en", "none.loading") not in text


def test_a_reason_of_any_content_is_escaped() -> None:
    assert HOSTILE not in verdict(Verdict.none(HOSTILE), "en", limit=15)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("code", "unit", "limit", "shown"),
    [
        ("image_too_large", "pixels", 64_000_000, {"en": 64, "zh": 6400}),
        ("image_too_large", "pixels", 170_000_000, {"en": 170, "zh": 17_000}),
        ("image_bytes_too_large", "bytes", 32 * 1_048_576, {"en": 32, "zh": 32}),
        ("text_too_long", "chars", 100_000, {"en": 100_000, "zh": 100_000}),
    ],
)
def test_a_refusal_names_the_limit(
    code: str, unit: str, limit: int, shown: dict[Language, int], language: Language
) -> None:
    sentence = say(language, f"allowed_{unit}", limit=shown[language])
    text = say(language, f"input.{code}", **{f"allowed_{unit}": sentence})
    assert input_error_text(InputError("…", code=code, limit=limit), language) == text
    without = say(language, f"input.{code}", **{f"allowed_{unit}": ""})
    assert input_error_text(InputError("…", code=code), language) == without


def test_an_unknown_refusal_shows_the_services_message_escaped() -> None:
    error = InputError(f"No {HOSTILE}.", code="novel", remedy="Do better.")
    assert input_error_text(error, "zh") == f"No {HOSTILE}. Do better."
    assert HOSTILE not in input_error(error, "en")
    assert "&lt;img" in input_error(error, "en")


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
def test_an_uncertain_probability_is_never_shown_as_certain(share: float, shown: str) -> None:
    assert percent(share) == shown


@pytest.mark.parametrize(
    ("duration", "shown"), [(0.004, "0.00"), (0.42, "0.42"), (3.21, "3.2"), (15.2, "15")]
)
def test_durations_have_two_significant_digits(duration: float, shown: str) -> None:
    assert seconds(duration) == shown

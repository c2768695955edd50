"""An answer as data: a verdict, no verdict, and input that cannot be judged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from page.verdicts import input_error, input_error_text, percent, seconds, verdict
from page.words import LANGUAGES, Language, say
from service.contract.calibration import Decision
from service.contract.errors import InputError
from service.contract.request import Verdict

SCORES = {"Yes": 0.921, "No": 0.05, "Maybe": 0.029}


def decided(scores: dict[str, float] | None = None) -> Verdict:
    return Verdict.of(scores or SCORES, duration=0.4231, device="cuda:0")


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_verdict_has_its_public_form_and_all_probabilities_duration_and_device(language: Language) -> None:
    answer = verdict(decided(), language, limit=15)
    assert (answer["state"], answer["verdict"]) == ("verdict", decided().as_dict())
    assert answer["shares"] == {"Yes": "92.1%", "No": "5.0%", "Maybe": "2.9%"}
    meta = say(language, "took", seconds="0.42"), say(language, "on_device", device="CUDA:0")
    assert answer["meta"] == " · ".join(meta)


@pytest.mark.parametrize("decision", ["accept", "review", "reject"])
def test_a_calibrated_verdict_says_its_decision(decision: Decision) -> None:
    answer = verdict(replace(decided(), decision=decision, calibrated=SCORES), "en", limit=15)
    assert answer["meta"].endswith(say("en", f"decision.{decision}"))
    assert answer["verdict"]["decision"] == decision


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("reason", ["timeout", "error", "busy", "loading", "stopping", "something new"])
def test_no_verdict_is_not_a_verdict_and_keeps_its_reason(reason: str, language: Language) -> None:
    answer = verdict(Verdict.none(reason, retry_after=3.2), language, limit=15)
    assert (answer["state"], answer["verdict"]["reason"]) == ("none", reason)
    assert "shares" not in answer


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
    said = verdict(answer, "en", limit=15.0)
    assert said["text"] == say("en", f"none.{answer.reason}", limit=15)
    assert said["remedy"] == say("en", remedy, seconds=4)


def test_a_failed_load_is_not_shown_as_loading() -> None:
    assert verdict(Verdict.none("loading"), "en", limit=15, failed=True)["text"] == say("en", "none.failed")


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


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_server_without_heic_support_says_so(language: Language) -> None:
    error = InputError("…", code="image_unsupported", missing_heic=1)
    assert input_error_text(error, language) == say(language, "input.image_unsupported.heic")


def test_an_unknown_refusal_has_the_services_message() -> None:
    error = InputError("No such thing.", code="novel", remedy="Do better.")
    expected = {"state": "input", "code": "novel", "text": "No such thing. Do better."}
    assert input_error(error, "zh") == expected


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

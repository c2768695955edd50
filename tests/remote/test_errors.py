"""Every error that the API behind --engine answers, as the page's and the API's callers get it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import httpx
import pytest

from api import problems
from page import verdicts
from service.contract.causes import BUSY, InputCode, Refusal
from service.contract.errors import (
    Busy,
    CallerBusy,
    DeadlineExceeded,
    InferenceError,
    InputError,
    InvalidTexts,
    NotReady,
    ShuttingDown,
    Unreachable,
)
from service.contract.request import Verdict
from service.front import Front
from service.remote.answers import Answer, error_of
from tests.api.serving import ENCODED, PICTURE, ScriptedApplication, base, serving
from tests.remote.conftest import Over

FACTS = {"limit": 7, "length": 12, "width": 3, "height": 4, "language": "English"}
ELSEWHERE = {InputCode.IMAGE_ELSEWHERE, InputCode.UPLOAD_GONE}  # found by the page itself


class Refusing(ScriptedApplication):
    """Answers a text that names an InputCode with that error."""

    def submit_many(self, image: Any, hypotheses: Sequence[str | None], *rest: Any, **named: Any) -> Any:
        (first, *_) = hypotheses
        if first == "two":
            raise InvalidTexts(
                [
                    (0, InputError("long", code=InputCode.TEXT_TOO_LONG, limit=7)),
                    (2, InputError("none", code=InputCode.NO_TEXT)),
                ]
            )
        if first in set(InputCode):
            raise InputError("The engine's own words.", code=first, **FACTS)
        return super().submit_many(image, hypotheses, *rest, **named)


@pytest.fixture
def engine() -> Iterator[tuple[Refusing, Front]]:
    scripted = Refusing()
    with serving(scripted) as front:
        yield scripted, front


@pytest.mark.parametrize("code", sorted(set(InputCode) - ELSEWHERE))
def test_input_that_the_engine_refuses_has_the_same_text_as_without_one(
    engine: tuple[Refusing, Front], over: Over, code: InputCode
) -> None:
    application = over(base(engine[1]))
    with pytest.raises(InputError) as refused:
        application.submit(PICTURE, code).result(30)
    local = InputError("here", code=code, **FACTS)
    assert refused.value.code == code
    assert dict(refused.value.facts) == FACTS
    for language in ("en", "zh"):
        assert verdicts.input_error_text(refused.value, language) == verdicts.input_error_text(
            local, language
        )
    assert application.snapshot().activity.counts["invalid"] == 1


def test_the_texts_that_cannot_be_judged_are_named(engine: tuple[Refusing, Front], over: Over) -> None:
    application = over(base(engine[1]))
    futures = application.submit_many(PICTURE, ["two", "b", "c"])
    for future in futures:
        with pytest.raises(InvalidTexts) as refused:
            future.result(30)
    assert refused.value.errors == [(0, "text_too_long"), (2, "no_text")]
    assert refused.value.facts == {"limit": 7}


@pytest.mark.parametrize("code", sorted(set(Refusal)))
def test_a_refusal_keeps_its_code_and_its_wait(
    engine: tuple[Refusing, Front], over: Over, code: Refusal
) -> None:
    scripted, front = engine
    reason = "busy" if code in BUSY else str(code)
    scripted.answers = {"now": Verdict.none(reason, code=code, retry_after=9.0)}
    verdict = over(base(front)).submit(PICTURE, "now").result(30)
    assert (verdict.reason, verdict.code) == (reason, code)
    assert verdict.retry_after == (9.0 if code in BUSY else None)


@pytest.mark.parametrize("code", ["timeout", "error"])
def test_a_failure_keeps_its_code(engine: tuple[Refusing, Front], over: Over, code: str) -> None:
    scripted, front = engine
    scripted.answers = {"now": Verdict.none(code)}
    verdict = over(base(front)).submit(PICTURE, "now").result(30)
    assert (verdict.reason, verdict.code) == (code, code)


@pytest.mark.parametrize("code", sorted(problems.STATUS))
def test_every_code_of_the_api_has_its_error(code: str) -> None:
    """An unknown one would be ``InvalidAnswer``; these are the codes that judging can meet."""
    kinds: dict[str, type[Exception]] = {
        "loading": NotReady,
        "stopping": ShuttingDown,
        "timeout": DeadlineExceeded,
        "no_instance": Unreachable,
        "caller_limit": CallerBusy,
        **dict.fromkeys(("queue_full", "too_late", "stuck", "no_room"), Busy),
        **dict.fromkeys(("rate_limit", "concurrent_limit"), Busy),
        **dict.fromkeys((*set(InputCode), "too_large"), InputError),
    }
    error = error_of(Answer(problems.STATUS[code], {"code": code}))
    assert isinstance(error, kinds.get(code, InferenceError))


def test_the_api_of_the_page_answers_as_the_engine(engine: tuple[Refusing, Front], over: Over) -> None:
    """One call after the other through two APIs: code, facts and errors are the same."""
    application = over(base(engine[1]))
    with serving(application) as page:
        for texts in (["two", "b", "c"], ["image_too_large"], ["language"]):
            answers = [_judge(base(front), texts) for front in (engine[1], page)]
            assert answers[0] == answers[1]


def test_pictures_of_one_call_that_cannot_be_judged_are_listed(
    engine: tuple[Refusing, Front], over: Over
) -> None:
    application = over(base(engine[1]))
    with serving(application) as page:
        inputs = [
            {"name": "image", "shape": [3], "datatype": "BYTES", "data": [ENCODED] * 3},
            {"name": "text", "shape": [3], "datatype": "BYTES", "data": ["a", "language", "not_an_image"]},
        ]
        answer = httpx.post(f"{base(page)}/v2/models/demo/infer", json={"inputs": inputs}, timeout=60)
    assert answer.status_code == 422
    assert answer.json()["errors"] == [
        {"index": 1, "code": "language"},
        {"index": 2, "code": "not_an_image"},
    ]


def _judge(address: str, texts: Sequence[str]) -> tuple[int, dict[str, Any]]:
    answer = httpx.post(
        f"{address}/v1/judge", data={"text": list(texts)}, files={"image": PICTURE}, timeout=60
    )
    content = answer.json()
    return answer.status_code, {name: content.get(name) for name in ("code", "facts", "errors", "detail")}


@pytest.mark.parametrize("code", [["no_text"], {}, None, "teapot"])
def test_an_odd_list_of_errors_leaves_the_error_itself(code: object) -> None:
    error = error_of(
        Answer(422, {"code": "no_text", "errors": [{"index": 0, "code": code}], "facts": {"x": 10**400}})
    )
    assert (type(error), error.code, error.facts) == (InputError, InputCode.NO_TEXT, {})

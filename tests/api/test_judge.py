"""POST /v1/judge: forms and JSON, several texts, cancellation, answers without a verdict."""

from __future__ import annotations

import logging
import re
import socket
import time
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import httpx
import pytest
from prometheus_client.exposition import generate_latest

from api.problems import TEXTS, of_input
from service.callers import networks
from service.contract.calibration import Calibration
from service.contract.causes import CalibrationCode, InputCode, Refusal
from service.contract.correlation import Trace, client_id_of
from service.contract.errors import InputError
from service.contract.request import Verdict
from service.contract.status import CalibrationState
from tests.api.serving import ENCODED, PICTURE, ScriptedApplication, base, client, code, picture, serving
from tests.applications import Build
from tests.exposition import Scraped
from tests.fakes import YES, FakePredictor, until
from tests.heic import halves, heic
from tests.web.application import READY, SCORES
from tests.web.raw import request

SECRET = "xylophonist"


def form(*texts: str, image: bytes = PICTURE, **fields: str) -> dict[str, Any]:
    return {"files": {"image": ("a.png", image)}, "data": {"text": list(texts), **fields}}


def test_a_form_is_judged(api: httpx.Client, scripted: ScriptedApplication) -> None:
    answer = api.post("/v1/judge", **form("a circle", "a square", premise="a shape", id="case-1"))
    assert answer.status_code == 200
    content = answer.json()
    result = {"label": "Yes", "score": 0.9, "scores": {"Yes": 0.9, "No": 0.06, "Maybe": 0.04}, "reason": None}
    assert content.pop("seconds") >= 0
    assert content == {
        "id": "case-1",
        "request_id": answer.headers["x-request-id"],
        "model": "demo",
        "results": [result, result],
    }
    assert [(one["image"], one["texts"], one["premise"]) for one in scripted.seen] == [
        (PICTURE, ["a circle", "a square"], "a shape")
    ]
    assert "a circle" not in answer.text


@pytest.mark.parametrize("prefix", ["", "data:image/png;base64,", "data:;base64,"])
@pytest.mark.parametrize("text", ["a circle", ["a circle"]], ids=["one", "list"])
def test_json_is_judged_as_the_form_is(
    api: httpx.Client, scripted: ScriptedApplication, prefix: str, text: object
) -> None:
    answer = api.post("/v1/judge", json={"image": prefix + ENCODED, "text": text})
    assert (answer.status_code, len(answer.json()["results"])) == (200, 1)
    assert (answer.json()["id"], scripted.seen[0]["premise"]) == (None, None)
    assert (scripted.seen[0]["image"], scripted.seen[0]["texts"]) == (PICTURE, ["a circle"])


def test_results_have_the_order_of_the_texts() -> None:
    no = Verdict.of({"Yes": 0.1, "No": 0.8, "Maybe": 0.1}, duration=0.1, device="cpu")
    with serving(ScriptedApplication({"second": no})) as front, client(front) as api:
        answer = api.post("/v1/judge", **form("first", "second", "third"))
    assert [one["label"] for one in answer.json()["results"]] == ["Yes", "No", "Yes"]


def test_a_calibrated_result_keeps_its_raw_scores() -> None:
    calibration = Calibration(2.0, 0.9, 0.6, "0" * 64)
    verdict = Verdict.of(SCORES, duration=0.1, device="cpu", calibration=calibration)
    with serving(ScriptedApplication({"a circle": verdict})) as front, client(front) as api:
        calibrated, plain = api.post("/v1/judge", **form("a circle", "a square")).json()["results"]
    assert calibrated == plain | {"calibrated": calibration.calibrated(SCORES), "decision": "review"}
    assert plain.keys() == {"label", "score", "scores", "reason"}


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        (CalibrationState(), {"state": "none"}),
        (
            CalibrationState("ignored", CalibrationCode.OTHER_WEIGHTS),
            {"state": "ignored", "code": "other_weights"},
        ),
        (
            CalibrationState("used", calibration=Calibration(2.0, 0.9, 0.6, "0" * 64)),
            {"state": "used", "temperature": 2.0, "accept": 0.9, "review": 0.6},
        ),
    ],
    ids=["none", "ignored", "used"],
)
def test_the_model_says_what_became_of_its_calibration(
    state: CalibrationState, expected: dict[str, object]
) -> None:
    snapshot = replace(READY, calibration=state)
    with serving(ScriptedApplication(snapshot=snapshot)) as front, client(front) as api:
        assert api.get("/v1/model").json()["calibration"] == expected


def test_the_time_of_each_stage_is_sent(api: httpx.Client) -> None:
    sent = api.post("/v1/judge", **form("a circle")).headers["server-timing"]
    stages = ("body", "prepare", "queue", "compute", "total")
    assert re.fullmatch(", ".join(rf"{stage};dur=[\d.]+" for stage in stages), sent)


def test_there_are_no_cors_headers(api: httpx.Client) -> None:
    answer = api.post("/v1/judge", headers={"origin": "http://other.example"}, **form("a circle"))
    assert not [name for name in answer.headers if name.startswith("access-control")]
    assert api.options("/v1/judge", headers={"origin": "http://other.example"}).status_code == 405


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("a.b_c:d-9", True), ("x" * 64, True), ("x" * 65, False), ("", False), ("a b", False), ("é", False)],
)
def test_a_valid_request_id_is_kept_and_another_replaced(api: httpx.Client, sent: str, kept: bool) -> None:
    for path in ("/v1/model", "/v1/nothing"):
        got = api.get(path, headers={"x-request-id": sent.encode("latin-1")}).headers["x-request-id"]
        assert client_id_of(got)
        assert (got == sent) is kept


def test_the_client_s_ids_reach_the_application(api: httpx.Client, scripted: ScriptedApplication) -> None:
    trace, parent = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    sent = {"x-request-id": "order-7", "traceparent": f"00-{trace}-{parent}-01"}
    api.post("/v1/judge", json={"image": ENCODED, "text": "a circle"}, headers=sent)
    answer = api.post("/v1/judge", json={"image": ENCODED, "text": "a circle"}, headers={"traceparent": "x"})
    first, second = scripted.seen
    assert (first["client_id"], first["trace"]) == ("order-7", Trace(trace, parent, sampled=True))
    assert (second["client_id"], second["trace"]) == (answer.headers["x-request-id"], None)


def test_every_answer_is_counted_by_route_and_status(
    api: httpx.Client, scripted: ScriptedApplication
) -> None:
    api.get("/v1/model")
    api.get("/v1/judge")
    api.get("/v1/nothing")
    api.post("/v1/judge", json={"image": ENCODED, "text": "a circle"})
    api.post("/v1/judge", json={"image": ENCODED})
    expected = (
        ("/v1/model", "200"),
        ("/v1/judge", "405"),
        ("other", "404"),
        ("/v1/judge", "200"),
        ("/v1/judge", "422"),
    )

    def counted() -> list[float]:
        told = Scraped(generate_latest(scripted.registry).decode())
        return [told("ofa_http_requests_total", route=route, status=status) for route, status in expected]

    until(lambda: all(counted()))  # an answer is counted after its last byte was sent
    assert counted() == [1] * len(expected)


def test_real_intake_and_engine_judge_a_call_in_one_batch(make: Build) -> None:
    sizes: list[int] = []

    def count(pairs: Any, cancel_point: Any) -> Any:
        sizes.append(len(pairs))
        time.sleep(0.001)
        return [YES for _ in pairs]

    application = make(FakePredictor(count), max_batch=8)
    application.supervisor.start()
    until(lambda: application.snapshot().phase == "loaded")
    with serving(application) as front, client(front) as api:
        answer = api.post("/v1/judge", **form(*(f"text {index}" for index in range(8))))
        assert [one["score"] for one in answer.json()["results"]] == [0.9] * 8
        assert 8 in sizes
        assert not re.search(r"compute;dur=0.0", answer.headers["server-timing"])
        for format in ("JPEG", "WEBP", "GIF"):
            assert api.post("/v1/judge", **form("a", image=picture(format))).status_code == 200
        refused = api.post("/v1/judge", **form("fine", "\u200b", "x" * 5000, "fine"))
        assert code(refused) == (422, "no_text")
        assert refused.json()["errors"] == [
            {"index": 1, "code": "no_text"},
            {"index": 2, "code": "text_too_long"},
        ]
        foreign = api.post("/v1/judge", **form("a dog", "一只狗", "собака", "the word “狗”"))
        assert code(foreign) == (422, "language")
        assert [one["index"] for one in foreign.json()["errors"]] == [1, 2]
        assert code(api.post("/v1/judge", **form("a dog", premise="一只狗"))) == (422, "language")
        assert api.post("/v1/judge", **form("a dog", image=heic(halves()))).status_code == 200
        assert code(api.post("/v1/judge", **form("a", image=heic(halves())[:90]))) == (422, "image_truncated")
        assert code(api.post("/v1/judge", **form("a", image=b"nothing"))) == (422, "not_an_image")
        assert code(api.post("/v1/judge", **form("a", image=PICTURE[:60]))) == (422, "image_truncated")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_a_server_without_heic_support_says_so(language: str) -> None:
    error = InputError("…", code=InputCode.IMAGE_UNSUPPORTED, missing_heic=1)
    problem = of_input(error)
    assert (problem.status, problem.code) == (422, "image_unsupported")
    assert problem.text == "image_unsupported.heic"
    assert TEXTS[language][problem.text] != TEXTS[language][problem.code]  # type: ignore[index]


@pytest.mark.parametrize(
    ("verdict", "status", "expected", "retry"),
    [
        (Verdict.none("timeout"), 504, "timeout", None),
        (Verdict.none("error"), 500, "error", None),
        (Verdict.none("busy", code=Refusal.QUEUE_FULL, retry_after=6.2), 503, "queue_full", "7"),
        (Verdict.none("busy", code=Refusal.TOO_LATE, retry_after=0.1), 503, "too_late", "1"),
        (Verdict.none("busy", code=Refusal.CALLER_LIMIT, retry_after=2.0), 429, "caller_limit", "2"),
        (Verdict.none("busy", code=Refusal.STUCK, retry_after=5.0), 503, "stuck", "5"),
        (Verdict.none("loading"), 503, "loading", "5"),
        (Verdict.none("stopping"), 503, "stopping", "10"),
        (Verdict.none("a reason of tomorrow"), 500, "error", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_without_a_verdict_there_is_no_200(
    verdict: Verdict, status: int, expected: str, retry: str | None
) -> None:
    with serving(ScriptedApplication({"second": verdict})) as front, client(front) as api:
        answer = api.post("/v1/judge", **form("first", "second"))
    assert code(answer) == (status, expected)
    assert answer.headers.get("retry-after") == retry


def test_the_detail_is_in_the_callers_language(api: httpx.Client) -> None:
    details = []
    for accepted in ("zh-CN,zh;q=0.9,en;q=0.5", "en", "fr"):
        answer = api.post("/v1/judge", headers={"accept-language": accepted}, data={"text": "a"})
        details.append((answer.headers["content-language"], answer.json()["detail"]))
    assert [language for language, _ in details] == ["zh", "en", "en"]
    assert details[0][1] != details[1][1] == details[2][1]


def test_a_client_that_leaves_cancels_its_call(scripted: ScriptedApplication) -> None:
    scripted.hold = True
    with serving(scripted) as front:
        body = httpx.Request("POST", base(front), **form("first", "second"))
        sent = request("POST", "/v1/judge", f"Content-Type: {body.headers['content-type']}", body=body.read())
        with socket.create_connection(("127.0.0.1", front.port)) as connection:
            connection.sendall(sent)
            until(lambda: len(scripted.futures) == 2)
        until(lambda: all(future.cancelled() for future in scripted.futures))
        scripted.hold = False
        with client(front) as api:
            assert api.post("/v1/judge", **form("third")).status_code == 200


def test_a_call_beyond_the_concurrent_ones_is_refused(
    scripted: ScriptedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of four calls at once, three may be one caller's."""
    monkeypatch.setattr("api.calls.SPARE_CALLS", 0)
    scripted.hold = True
    with ExitStack() as stack:
        front = stack.enter_context(
            serving(scripted, queue_size=4, trusted_proxies=networks("127.0.0.1"), timeout=600.0)
        )
        api = stack.enter_context(client(front))
        body = httpx.Request("POST", base(front), **form("first"))
        lines = f"Content-Type: {body.headers['content-type']}"

        def hold(caller: str) -> None:
            sent = request("POST", "/v1/judge", lines, f"X-Forwarded-For: {caller}", body=body.read())
            connection = stack.enter_context(socket.create_connection(("127.0.0.1", front.port)))
            held = len(scripted.futures) + 1
            connection.sendall(sent)
            until(lambda: len(scripted.futures) == held)

        def refused(caller: str) -> httpx.Response:
            return api.post("/v1/judge", **form("second"), headers={"X-Forwarded-For": caller})

        for caller in ("192.0.2.1",) * 3:
            hold(caller)
        assert code(refused("192.0.2.1")) == (429, "caller_limit")
        hold("192.0.2.2")
        answer = refused("192.0.2.3")
        assert code(answer) == (503, "queue_full")
        assert answer.headers["retry-after"] == "1"


def test_no_text_of_a_call_is_logged(make: Build, caplog: pytest.LogCaptureFixture) -> None:
    def fail(pairs: Any, cancel_point: Any) -> Any:
        raise RuntimeError("not mapped")

    caplog.set_level(logging.DEBUG, "service")
    application = make(FakePredictor(fail))
    application.supervisor.load()
    application.supervisor.start()
    with serving(application) as front, client(front) as api:
        for image in (PICTURE, SECRET.encode()):
            api.post("/v1/judge", **form(SECRET, image=image, premise=SECRET, id="a"))
        api.post("/v1/judge", json={"image": SECRET, "text": SECRET, SECRET: 1})
        api.get(f"/v1/{SECRET}")
    assert SECRET not in caplog.text


def test_every_input_code_has_a_client_error() -> None:
    from api.problems import STATUS, TEXTS

    from_page = {InputCode.IMAGE_ELSEWHERE, InputCode.UPLOAD_GONE}
    assert {STATUS[one] for one in set(InputCode) - from_page} == {413, 422}
    assert {STATUS[one] for one in Refusal} == {429, 503}
    for texts in TEXTS.values():
        assert set(STATUS) <= set(texts)
    assert TEXTS["en"].keys() == TEXTS["zh"].keys()

"""Validation of calls to Gradio's queue: which fields are passed on, which calls are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from page.calls import ARGUMENTS, DEPTH, VALUES, CallValidator, read
from service.http.bodies import Refused

JOIN = "/gradio_api/queue/join"
JUDGE = "/gradio_api/call/judge"
PICTURE = {"path": "/x/picture.png", "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}
ASKED = {"data": [PICTURE, "a circle", None], "fn_index": 3, "session_hash": "s-1_a"}


def passed(path: str, content: Any) -> Any:
    return json.loads(CallValidator([1, 3]).validated(path, json.dumps(content).encode()))


def status(path: str, body: bytes) -> int:
    with pytest.raises(Refused) as caught:
        CallValidator([1, 3]).validated(path, body)
    assert caught.value.code == "bad_call"
    return caught.value.status


def test_only_known_fields_are_passed_on() -> None:
    odd = {
        "trigger_id": 7,
        "batched": True,
        "request": {},
        "event_id": "x",
        "simple_format": False,
        "__class__": 1,
    }
    assert passed(JOIN, {**ASKED, **odd}) == {**ASKED, "event_data": None}
    assert passed(JUDGE, {**ASKED, **odd}) == {"data": ASKED["data"]}
    assert passed(f"{JUDGE}/", ASKED) == {"data": ASKED["data"]}
    named = {"image": PICTURE, "text": "a circle"}
    assert passed("/gradio_api/call/v2/judge", named) == named


@pytest.mark.parametrize(
    ("event", "passed_on"),
    [
        ({"index": 2}, {"index": 2}),
        ({"index": 2, "path": "/secret", "meta": {"_type": "gradio.FileData"}}, {"index": 2}),
        ({"path": "/secret", "meta": {"_type": "gradio.FileData"}}, None),
        ({"index": True}, None),
        ({"index": -1}, None),
        ({"index": 10**30}, None),
        ([1], None),
        ("x", None),
    ],
    ids=str,
)
def test_only_the_index_of_event_data_is_passed_on(event: Any, passed_on: Any) -> None:
    assert passed(JOIN, {**ASKED, "event_data": event})["event_data"] == passed_on


@pytest.mark.parametrize("number", [0, 2, -1, 999, 1e30, 3.0, "3", None, True, [3]], ids=repr)
def test_only_events_with_a_server_function_can_be_called(number: Any) -> None:
    assert status(JOIN, json.dumps({**ASKED, "fn_index": number}).encode()) in (404, 422)


@pytest.mark.parametrize(
    "word", ["", " ", "a b", "é", "x" * 65, "a\n", "../x", "\ud800", 5, None, ["a"]], ids=repr
)
def test_invalid_ids_are_refused(word: Any) -> None:
    assert status(JOIN, json.dumps({**ASKED, "session_hash": word}).encode()) == 422
    asked = {"session_hash": word, "event_id": "e", "fn_index": 3}
    assert status("/gradio_api/cancel", json.dumps(asked).encode()) == 422
    assert status("/gradio_api/reset", json.dumps({"event_id": word}).encode()) == 422


def test_an_event_can_be_cancelled() -> None:
    asked = {"session_hash": "s", "event_id": "e", "fn_index": 3}
    assert passed("/gradio_api/cancel", {**asked, "more": 1}) == asked
    assert passed("/gradio_api/reset/", {"event_id": "e", "more": 1}) == {"event_id": "e"}


@pytest.mark.parametrize("data", [None, "x", {}, 5, [None] * (ARGUMENTS + 1)], ids=str)
def test_arguments_are_a_short_list(data: Any) -> None:
    for path in (JOIN, JUDGE):
        assert status(path, json.dumps({**ASKED, "data": data}).encode()) == 422


@pytest.mark.parametrize("content", [{}, {"image": None}, {"image": None, "text": "x", "more": 1}], ids=str)
def test_unknown_argument_names_are_refused(content: Any) -> None:
    assert status("/gradio_api/call/v2/judge", json.dumps(content).encode()) == 422


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"data": [null, NaN, null]}',
        b'{"data": [null, Infinity, null]}',
        b'{"data": [null, "\xff", null]}',
        b"\xef\xbb\xbf{}",
        '{"data": []}'.encode("utf-16"),
        b'{"data": [' + b"9" * 5000 + b"]}",
        b"[" * 200_000,
        b'{"a":' * 200_000,
    ],
    ids=lambda body: repr(body[:20]),
)
def test_invalid_json_is_refused(body: bytes) -> None:
    assert status(JUDGE, body) == 400


@pytest.mark.parametrize(
    "body",
    [
        b"[]",
        b"7",
        b'"x"',
        b'{"data": [1e999]}',
        b'{"data": ' + b"[" * DEPTH + b"]" * DEPTH + b"}",
        b'{"data": ' + b"[" * 800 + b"]" * 800 + b"}",
        b'{"data": [[' + b"1," * VALUES + b"1]]}",
    ],
    ids=lambda body: repr(body[:20]),
)
def test_complex_calls_and_non_objects_are_refused(body: bytes) -> None:
    assert status(JUDGE, body) == 422


def test_unusual_characters_in_a_text_are_passed_on() -> None:
    assert read(b'{"data": ["\\ud800 \\u0000"]}') == {"data": ["\ud800 \0"]}
    assert passed(JUDGE, {"data": [None, "\ud800", None]}) == {"data": [None, "\ud800", None]}

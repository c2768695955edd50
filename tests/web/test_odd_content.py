"""Malformed forms and calls over real sockets: refused without an error and without logging input."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.fakes import until
from tests.web.client import META, Page, upload
from tests.web.malformed import JOIN, JUDGE, LIMIT, QUESTION, SECRET, UPLOAD, no_error, page
from tests.web.raw import FORM, JSON, Answer, connected, exchange, form, request

__all__ = ["no_error", "page"]

# ---- forms -----------------------------------------------------------------------------------------------

FILES = 'form-data; name="files"'


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (f"{FORM}; charset=punycode", form(b"a" * 700_000, 'form-data; name="a"')[:LIMIT]),
        (f"{FORM}; charset=bz2", form(b"x")),
        ("Content-Type: multipart/form-data", form(b"x")),
        ("Content-Type: multipart/form-data; boundary=", form(b"x")),
        (f'Content-Type: multipart/form-data; boundary="{"a" * 50_000}"', form(b"x")),
        (f'{FORM};a="' + '\\"' * 15_000 + '"', form(b"x")),
        ("Content-Type: multipart/mixed; boundary=XX", form(b"x")),
        (JSON, form(b"x")),
        (FORM, b"x"),
        (FORM, b"--XX--\r\n"),
        (FORM, b"--XX\r\n\r\nabc\r\n--XX--\r\n"),
        (FORM, form(b"x", FILES)),
        (FORM, form(b"x", 'form-data; name="a"')),
        (FORM, form(b"x", 'form-data; name="image"; filename="a.png"')),
        (FORM, form(b"x" * 300_000, 'form-data; name="a"')),
        (FORM, form(b"x")[:-4]),
        (FORM, form(b"x") + b"x" * 200_000),
        (FORM, b"x" * 200_000 + form(b"x")),
        (FORM, form(b"x")[:-8] * 1000 + b"--XX--\r\n"),
        (FORM, form(b"x", f'{FILES}; filename="{SECRET}"\r\n' + "a: b\r\n" * 1300)),
        (FORM, form(b"x", f'{FILES}; filename="{"a" * 5000}"')),
        (FORM, form(b"x", FILES + ";a=" * 1900)),
    ],
    ids=range(22),
)
@pytest.mark.parametrize("query", ["", "?upload_id=a1"])
def test_a_malformed_form_is_refused_and_leaves_no_file(
    page: Page, kind: str, body: bytes, query: str
) -> None:
    assert exchange(page.base, request("POST", UPLOAD + query, kind, body=body)).status == 400
    assert page.uploads == []


def test_a_picture_sent_as_a_text_field_gets_a_hint(page: Page) -> None:
    answer = exchange(page.base, request("POST", UPLOAD, FORM, body=form(b"examples/existence.png", FILES)))
    assert answer.status == 400
    assert b"-F files=@" in answer.body


@pytest.mark.parametrize("upload_id", ["", "a" * 65, "a%20b", "%ff", "u" * 8000, "a&upload_id=b"])
def test_an_invalid_upload_id_is_refused(page: Page, upload_id: str) -> None:
    for head in (
        request("POST", f"{UPLOAD}?upload_id={upload_id}", FORM, body=form(b"x")),
        request("GET", f"/gradio_api/upload_progress?upload_id={upload_id}"),
    ):
        assert exchange(page.base, head).status == 400
    assert page.uploads == []


def test_the_progress_ends_with_the_upload_even_if_it_fails(page: Page) -> None:
    progress = "/gradio_api/upload_progress?upload_id="
    for name, body in (("fails", form(b"x", FILES)), ("works", form(b"x" * 1000))):
        answer = exchange(page.base, request("POST", f"{UPLOAD}?upload_id={name}", FORM, body=body))
        events = exchange(page.base, request("GET", progress + name))
        assert (events.status, events.body) == (200, b'data: {"msg": "done"}\n\n')
        if answer.status == 200:
            Path(answer.json()[0]).unlink()
    assert exchange(page.base, request("GET", progress + "unknown")).status == 404


def test_a_disconnect_during_an_upload_leaves_no_file(page: Page) -> None:
    before = page.output.count("HUNG_UP")
    head = request("POST", UPLOAD, FORM, "Content-Length: 400000", close=False)
    for _ in range(10):
        with connected(page.base) as one:
            one.sendall(head + form(b"x" * 100_000)[:-20])
            until(lambda: len(page.uploads) > 0)
        until(lambda: page.uploads == [])
    until(lambda: page.output.count("HUNG_UP") == before + 10)


# ---- calls -----------------------------------------------------------------------------------------------


def functions(page: Page) -> dict[bool, list[int]]:
    """Return the numbers of the page's events, by whether they have a server function."""
    events = httpx.get(f"{page.base}/config").json()["dependencies"]
    return {runs: [event["id"] for event in events if event["backend_fn"] is runs] for runs in (True, False)}


def post(page: Page, path: str, body: Any) -> Answer:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return exchange(page.base, request("POST", path, JSON, body=content))


def test_an_event_without_a_server_function_cannot_be_called(page: Page) -> None:
    for number in (*functions(page)[False], -1, 999, 10**30):
        assert post(page, JOIN, {"data": [], "fn_index": number, "session_hash": "a"}).status in (404, 422)


@pytest.mark.parametrize(
    "event",
    [
        {"path": f"/{SECRET}\n2026 | FATAL | forged", "meta": META},
        {"path": SECRET + "y" * 300_000},
        SECRET,
        [1],
    ],
)
def test_event_data_is_not_logged(page: Page, event: Any) -> None:
    for number in functions(page)[True]:
        asked = {"data": [], "fn_index": number, "session_hash": f"e{number}", "event_data": event}
        assert post(page, JOIN, asked).status == 200
        events = exchange(page.base, request("GET", f"/gradio_api/queue/data?session_hash=e{number}"))
        assert b"process_completed" in events.body
    assert "forged" not in page.output


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{JUDGE}", b"{}"),
        ("/gradio_api/call/v2/judge", b"{}"),
        ("/gradio_api/call/v2/judge", b"[]"),
        ("/gradio_api/call/v2/judge", {"image": None, "text": SECRET, "more": 1}),
        (JUDGE, b"[" * 400_000),
        (JUDGE, b'{"data":' + b'{"a":' * 10_000),
        (JUDGE, b'{"data": [' + b"1," * 200_000 + b"1]}"),
        (JUDGE, b'{"data": [null, NaN, null]}'),
        (JUDGE, b'{"data": [null, ' + b"9" * 100_000 + b", null]}"),
        (JUDGE, b'{"data": [null, "\xff", null]}'),
        (JUDGE, b"\xef\xbb\xbf" + QUESTION),
        (JUDGE, {"data": SECRET}),
        (JOIN, {"data": [], "session_hash": "a"}),
        (JOIN, {"data": [], "fn_index": "1", "session_hash": "a"}),
        (JOIN, {"data": [None] * 3, "fn_index": 1, "session_hash": ""}),
        (JOIN, {"data": [None] * 3, "fn_index": 1, "session_hash": SECRET + "\n| FATAL | forged"}),
        (JOIN, {"data": [None] * 3, "fn_index": 1, "session_hash": "s" * 900_000}),
        (JOIN, b'{"data": [], "fn_index": 1, "session_hash": "\\ud800"}'),
        ("/gradio_api/cancel", {"session_hash": "x" * 100_000, "fn_index": 1, "event_id": "z"}),
        ("/gradio_api/cancel", b"{}"),
        ("/gradio_api/reset", b"{}"),
    ],
    ids=range(21),
)
def test_an_invalid_call_is_refused_in_json(page: Page, path: str, body: Any) -> None:
    answer = post(page, path, body)
    assert 400 <= answer.status < 500
    assert answer.json()["code"] == "bad_call"


def test_a_session_has_one_reader(page: Page) -> None:
    async def conversation(client: httpx.AsyncClient) -> list[int]:
        question = {"data": [await upload(client, b"x"), "hold", None]}
        event = (await client.post(JUDGE, json=question)).json()["event_id"]
        first = asyncio.create_task(client.get(f"{JUDGE}/{event}"))
        await asyncio.to_thread(until, lambda: "waiting" in page.output)
        second = await client.get(f"{JUDGE}/{event}")
        await client.post(JUDGE, json={"data": [await upload(client, b"x"), "release", None]})
        assert "event: complete" in (await first).text
        third = await client.get(f"{JUDGE}/{event}")
        return [second.status_code, third.status_code]

    assert page.run(conversation) == [409, 200]
    for path in page.uploads:
        path.unlink()

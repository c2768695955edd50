"""Malformed, hostile and slow calls: a clear 4xx or a closed connection, and nothing kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import httpx
import pytest

from api import bodies
from service.callers import networks
from service.front import Front
from service.settings import Settings
from tests.api.serving import ENCODED, PICTURE, ScriptedApplication, base, client, code, serving
from tests.fakes import until
from tests.web.raw import chunks, connected, exchange, request

CHARS = 100
BYTES = 100_000


@pytest.fixture
def application() -> ScriptedApplication:
    return ScriptedApplication()


@pytest.fixture
def front(application: ScriptedApplication) -> Iterator[Front]:
    with serving(application, max_bytes=BYTES, max_chars=CHARS) as front:
        yield front


@pytest.fixture
def api(front: Front) -> Iterator[httpx.Client]:
    with client(front) as one:
        yield one


def part(name: str, content: bytes, file: bool = False) -> bytes:
    more = '; filename="a.png"' if file else ""
    return f'--XX\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


IMAGE = part("image", PICTURE, file=True)
TEXT = part("text", b"a circle")
END = b"--XX--\r\n"
FORM = {"content-type": "multipart/form-data; boundary=XX"}
JSON = {"content-type": "application/json"}


def send(api: httpx.Client, headers: dict[str, str], body: bytes) -> tuple[int, str]:
    return code(api.post("/v1/judge", headers=headers, content=body))


def test_the_form_that_the_cases_below_break_is_accepted(api: httpx.Client) -> None:
    assert api.post("/v1/judge", headers=FORM, content=IMAGE + TEXT + END).status_code == 200


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", (400, "malformed")),
        (IMAGE + TEXT, (400, "malformed")),  # truncated
        ((IMAGE + TEXT + END)[:-20], (400, "malformed")),
        ((IMAGE + TEXT + END).replace(b"XX", b"YY"), (400, "malformed")),  # wrong boundary
        (b"--XX\r\n\r\nno name\r\n" + END, (400, "malformed")),
        (part("other", b"") * 60 + END, (422, "invalid_field")),
        (END, (422, "no_image")),
        (TEXT + END, (422, "no_image")),
        (IMAGE + END, (422, "no_text")),
        (IMAGE * 2 + TEXT + END, (422, "invalid_field")),
        (part("image", b"http://pictures.example/a.png") + TEXT + END, (422, "invalid_field")),
        (IMAGE + TEXT * 33 + END, (422, "too_many_texts")),
        (IMAGE + part("text", b"\xff\xfe") + END, (422, "invalid_field")),
        (IMAGE + TEXT + part("premise", b"a") * 2 + END, (422, "invalid_field")),
        (IMAGE + TEXT + part("id", b"a b") + END, (422, "invalid_id")),
        (IMAGE + TEXT + part("id", b"") + END, (422, "invalid_id")),
        (IMAGE + TEXT + part("id", b"a") * 2 + END, (422, "invalid_id")),
        (IMAGE + TEXT + part("url", b"a") + END, (422, "invalid_field")),
        (part("image", b"x" * (BYTES + 1), file=True) + TEXT + END, (413, "image_bytes_too_large")),
        (part("image", b"x" * (2 * BYTES), file=True) + TEXT + END, (413, "too_large")),
    ],
    ids=range(20),
)
def test_a_bad_form_is_refused(api: httpx.Client, body: bytes, expected: tuple[int, str]) -> None:
    assert send(api, FORM, body) == expected


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("", (400, "malformed")),
        ("{", (400, "malformed")),
        ("[]", (400, "malformed")),
        ("null", (400, "malformed")),
        ("NaN", (400, "malformed")),
        ('{"image": NaN, "text": "a"}', (400, "malformed")),
        ('{"image": Infinity, "text": "a"}', (400, "malformed")),
        ('{"image": "aaaa", "image": "aaaa", "text": "a"}', (400, "malformed")),
        ('{"text": ' + "[" * 10_000 + "]" * 10_000 + "}", (400, "malformed")),
        ('{"text": ' + "[" * 100 + "]" * 100 + "}", (422, "no_image")),
        ('{"text": ' + '{"a":' * 10_000 + "1" + "}" * 10_001, (400, "malformed")),
        ('{"text": [' + ",".join("1" * 100_000) + "]}", (400, "malformed")),  # a huge array
        ('{"image": "aaaa", "text": ' + "1" * 10_000 + "}", (400, "malformed")),
        ('{"text": "a"}', (422, "no_image")),
        ('{"image": null, "text": "a"}', (422, "no_image")),
        ('{"image": "aaaa"}', (422, "no_text")),
        ('{"image": "aaaa", "text": []}', (422, "no_text")),
        ('{"image": 7, "text": "a"}', (422, "invalid_field")),
        ('{"image": ["aaaa"], "text": "a"}', (422, "invalid_field")),
        ('{"image": "a*aa", "text": "a"}', (422, "invalid_field")),
        ('{"image": "aaa", "text": "a"}', (422, "invalid_field")),
        ('{"image": "http://pictures.example/a.png", "text": "a"}', (422, "invalid_field")),
        ('{"image": "file:///etc/passwd", "text": "a"}', (422, "invalid_field")),
        ('{"image": "data:image/png,aaaa", "text": "a"}', (422, "invalid_field")),
        ('{"image": "aaaa", "text": 7}', (422, "invalid_field")),
        ('{"image": "aaaa", "text": ["a", null]}', (422, "invalid_field")),
        ('{"image": "aaaa", "text": {"a": "b"}}', (422, "invalid_field")),
        ('{"image": "aaaa", "text": "a", "premise": ["a"]}', (422, "invalid_field")),
        ('{"image": "aaaa", "text": "a", "id": 7}', (422, "invalid_id")),
        ('{"image": "aaaa", "text": "a", "id": "é"}', (422, "invalid_id")),
        ('{"image": "aaaa", "text": "a", "more": 1}', (422, "invalid_field")),
        (json.dumps({"image": "aaaa", "text": ["a"] * 33}), (422, "too_many_texts")),
    ],
    ids=range(32),
)
def test_bad_json_is_refused(api: httpx.Client, body: str, expected: tuple[int, str]) -> None:
    assert send(api, JSON, body.encode()) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, (415, "unsupported_media_type")),
        ({"content-type": "text/plain"}, (415, "unsupported_media_type")),
        ({"content-type": "application/x-www-form-urlencoded"}, (415, "unsupported_media_type")),
        ({"content-type": "application/json; charset=utf-16"}, (415, "unsupported_media_type")),
        ({"content-type": "image/png"}, (415, "unsupported_media_type")),
        ({"content-type": "multipart/form-data"}, (415, "unsupported_media_type")),
        ({"content-type": "multipart/form-data; boundary="}, (400, "malformed")),
        ({"content-type": f"multipart/form-data; boundary={'X' * 71}"}, (400, "malformed")),
        ({**FORM, "content-encoding": "gzip"}, (415, "unsupported_media_type")),
    ],
    ids=range(9),
)
def test_a_bad_header_is_refused(
    api: httpx.Client, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    assert send(api, headers, IMAGE + TEXT + END) == expected


def test_bytes_that_are_not_utf8_are_not_json(api: httpx.Client) -> None:
    body = json.dumps({"image": ENCODED, "text": "a"}).encode("utf-16")
    assert send(api, JSON, body) == (400, "malformed")


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/v1/judge", (405, "method_not_allowed")),
        ("DELETE", "/v1/model", (405, "method_not_allowed")),
        ("GET", "/v1/", (404, "not_found")),
        ("GET", "/v1/judge/", (404, "not_found")),
        ("GET", "/v1/%2e%2e/status", (404, "not_found")),
        ("POST", "/v3", (404, "not_found")),
    ],
)
def test_other_paths_and_methods_are_refused(
    api: httpx.Client, method: str, path: str, expected: tuple[int, str]
) -> None:
    answer = api.request(method, path)
    assert code(answer) == expected
    assert ("allow" in answer.headers) is (answer.status_code == 405)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", ""),
        *((method, f"/{'0' * 32}") for method in ("GET", "DELETE")),
        ("GET", f"/{'0' * 32}/results"),
    ],
)
def test_an_api_without_batches_says_that_they_are_not_here(
    api: httpx.Client, method: str, path: str
) -> None:
    answer = api.request(method, f"/v1/batches{path}", headers={"content-type": "text/csv"})
    assert code(answer) == (404, "not_here")


def test_a_chunked_body_is_counted(front: Front, application: ScriptedApplication) -> None:
    head = request("POST", "/v1/judge", "Content-Type: multipart/form-data; boundary=XX", CHUNKED)
    accepted = exchange(base(front), head, chunks(IMAGE, TEXT, END))
    assert accepted.status == 200
    before = len(application.seen)
    large = chunks(IMAGE[:-2], *[b"x" * 10_000] * 30, TEXT, END)
    assert exchange(base(front), head, large).status == 413
    assert len(application.seen) == before


CHUNKED = "Transfer-Encoding: chunked"


@pytest.mark.parametrize(
    "headers",
    [
        ("Content-Length: 5", CHUNKED),
        ("Content-Length: 5", "Content-Length: 6"),
        ("Content-Length: -5",),
        ("Content-Length: five",),
        ("Host: a b",),
    ],
    ids=range(5),
)
def test_ambiguous_framing_is_refused(front: Front, headers: tuple[str, ...]) -> None:
    sent = request("POST", "/v1/judge", "Content-Type: application/json", *headers) + b"12345"
    assert exchange(base(front), sent).status in (0, 400)


def test_a_body_that_arrives_too_slowly_is_refused(
    application: ScriptedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.2)
    with serving(application) as front, connected(base(front)) as connection:
        head = request("POST", "/v1/judge", "Content-Type: application/json", "Content-Length: 100")
        connection.sendall(head + b"{")
        assert b" 408 " in connection.recv(65_536).partition(b"\r\n")[0]


def test_abandoned_bodies_and_calls_leave_nothing(
    front: Front, application: ScriptedApplication, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The quota of one caller has room for two of these bodies; abandoned ones must not hold it."""
    head = request("POST", "/v1/judge", "Content-Type: application/json", "Content-Length: 150000")
    for _ in range(50):
        with connected(base(front)) as connection:
            connection.sendall(head + b'{"image": "aaaa')
    with client(front) as api:

        def accepted() -> bool:
            return api.post("/v1/judge", json={"image": ENCODED, "text": "a"}).status_code == 200

        until(accepted)


def test_memory_for_bodies_has_a_limit_and_one_for_each_caller(application: ScriptedApplication) -> None:
    settings = {"max_bytes": BYTES, "trusted_proxies": networks("127.0.0.1")}
    largest = bodies.Limits(Settings(**settings)).json  # type: ignore[arg-type]
    body = {"image": ENCODED, "text": "a"}
    with serving(application, **settings) as front, client(front) as api, ExitStack() as held:
        memory = front._site_of[""]._api._calls.limits.memory  # type: ignore[attr-defined]

        def answer(caller: str) -> int | tuple[int, str]:
            got = api.post("/v1/judge", json=body, headers={"x-forwarded-for": caller})
            return 200 if got.status_code == 200 else code(got)

        def hold(caller: str) -> None:
            headers = (f"Content-Length: {largest}", f"X-Forwarded-For: {caller}")
            connection = held.enter_context(connected(base(front)))
            head = request("POST", "/v1/judge", "Content-Type: application/json", *headers)
            connection.sendall(head + b"{")
            until(lambda: memory.used(caller) > 0)

        hold("192.0.2.1")
        assert answer("192.0.2.1") == (429, "caller_limit")
        assert answer("192.0.2.2") == 200
        hold("192.0.2.3")
        assert answer("192.0.2.2") == (507, "no_room")
        held.close()
        until(lambda: answer("192.0.2.1") == 200)


def test_a_large_picture_in_base64_is_refused_by_its_decoded_size(make: Any) -> None:
    application = make(max_bytes=2000)
    application.supervisor.load()
    large = base64.b64encode(b"\x89PNG" + b"x" * 5000).decode()
    with serving(application, max_bytes=2000) as front, client(front) as api:
        answer = api.post("/v1/judge", json={"image": large, "text": "a"})
        assert code(answer) == (413, "image_bytes_too_large")

"""Malformed HTTP over real sockets: refused without an error."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.web.client import Page
from tests.web.malformed import JUDGE, LIMIT, QUESTION, UPLOAD, no_error, page
from tests.web.raw import FORM, JSON, chunks, exchange, form, request

__all__ = ["no_error", "page"]

LARGE = b'{"data": [null, "' + b"x" * 3_000_000 + b'", null]}'

# ---- where a body ends -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kind", "body"),
    [
        (JUDGE, JSON, [QUESTION]),
        (JUDGE, JSON, [LARGE]),
        (UPLOAD, FORM, [form(b"x" * 1000)]),
        (UPLOAD, FORM, [form(b"x" * 3_000_000)]),
        ("/nothing", JSON, [QUESTION]),
        ("/ops/login", JSON, [QUESTION]),
    ],
)
@pytest.mark.parametrize("length", ["9", "5", "99999999"])
def test_content_length_with_chunks_is_refused_and_the_connection_closed(
    page: Page, path: str, kind: str, body: list[bytes], length: str
) -> None:
    head = request("POST", path, kind, f"Content-Length: {length}", "Transfer-Encoding: chunked", close=False)
    answer = exchange(page.base, head, chunks(*body))
    assert (answer.status, answer.headers["connection"]) == (400, "close")
    assert page.uploads == []


@pytest.mark.parametrize(
    ("path", "kind", "body", "status"),
    [
        (JUDGE, JSON, QUESTION, 200),
        (JUDGE, JSON, LARGE, 413),
        (UPLOAD, FORM, form(b"x" * (LIMIT + 1)), 413),
        (UPLOAD, FORM, form(b"x" * (LIMIT + 1), 'form-data; name="a"'), 400),
    ],
)
def test_chunks_are_counted_as_they_arrive(
    page: Page, path: str, kind: str, body: bytes, status: int
) -> None:
    pieces = [body[start : start + 10_000] for start in range(0, len(body), 10_000)]
    answer = exchange(page.base, request("POST", path, kind, "Transfer-Encoding: chunked"), chunks(*pieces))
    assert answer.status == status
    assert page.uploads == []


def endless() -> Iterator[bytes]:
    """Yield far more than any limit."""
    for _ in range(2000):
        yield b"10000\r\n" + b"x" * 0x10000 + b"\r\n"


@pytest.mark.parametrize("path", ["/nothing", UPLOAD, JUDGE, "/ops/login"])
def test_an_endless_body_is_read_within_bounds(page: Page, path: str) -> None:
    sent = 0

    def counted() -> Iterator[bytes]:
        nonlocal sent
        for piece in endless():
            yield piece
            sent += len(piece)

    exchange(page.base, request("POST", path, JSON, "Transfer-Encoding: chunked"), counted())
    assert sent < 60_000_000  # socket buffers, and what is drained before the answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (request("POST", JUDGE, JSON), 411),
        (request("POST", JUDGE, JSON, f"Content-Length: {len(LARGE)}", body=LARGE), 413),
        (request("POST", JUDGE, JSON, "Content-Length: 99999999999999999999"), 413),
        (request("POST", JUDGE, JSON, "Content-Length: +24", body=QUESTION), 400),
        (request("POST", JUDGE, JSON, "Content-Length: 0x18", body=QUESTION), 400),
        (request("POST", JUDGE, JSON, f"Content-Length: {'0' * 4980}24", body=QUESTION), 400),
        (request("POST", JUDGE, JSON, "Content-Length: 5", "Content-Length: 6", body=QUESTION), 400),
        (request("POST", JUDGE, JSON, "Transfer-Encoding: xchunked", body=QUESTION), 400),
        (request("POST", JUDGE, JSON, "Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 400),
        (request("POST", JUDGE, JSON, "Content-Length: 3", "Transfer-Encoding:\r\n chunked"), 400),
        (request("GET", "/status", "Transfer-Encoding: chunked", body=b"0\r\n\r\n"), 400),
        (request("GET", "/status", body=b"body"), 400),
        (request("POST", JUDGE, JSON, "Content-Encoding: gzip", body=QUESTION), 415),
        (request("POST", JUDGE, body=QUESTION), 415),
        (request("POST", JUDGE, "Content-Type: text/plain", body=QUESTION), 415),
        (request("POST", JUDGE, JSON, JSON, body=QUESTION), 400),
        (b"POST /gradio_api/call/judge HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET /status\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\n\r\n", 400),
        (b"GET /status HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET /sta\0tus HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /sta tus HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405),
    ],
    ids=range(23),
)
def test_a_malformed_request_is_refused(page: Page, head: bytes, status: int) -> None:
    assert exchange(page.base, head).status == status


def test_expect_100_continue_for_a_body_over_the_limit_is_refused(page: Page) -> None:
    head = request("POST", UPLOAD, FORM, "Content-Length: 9999999", "Expect: 100-continue")
    assert exchange(page.base, head).status == 413


def test_an_upgrade_is_ignored(page: Page) -> None:
    head = request("GET", "/status", "Upgrade: websocket", "Sec-WebSocket-Key: dGhl", close=False)
    head = head.replace(b"\r\n\r\n", b"\r\nConnection: Upgrade, close\r\n\r\n")
    assert exchange(page.base, head).status == 200


# ---- paths and headers -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["assets", "static", "svelte", "static/img"])
@pytest.mark.parametrize(
    "name",
    ["a" * 201, "a" * 5000, "%00", "..%2froutes.py", "%2fetc%2fpasswd", "a%0ab", "..%5cx", "%ff", ".", ""],
)
def test_an_invalid_asset_name_is_not_found(page: Page, folder: str, name: str) -> None:
    assert exchange(page.base, request("GET", f"/{folder}/{name}")).status in (403, 404)


@pytest.mark.parametrize(
    "asked", ["0-1-2", "5-2", "0-0,1-1", "a-b", "\xb2-\xb2", "9" * 5000 + "-" + "9" * 5001, "-"]
)
def test_an_invalid_range_is_refused(page: Page, asked: str) -> None:
    path = exchange(page.base, request("POST", UPLOAD, FORM, body=form(b"0123456789"))).json()[0]
    for name in (f"/gradio_api/file={path}", "/static/img/logo.svg", "/favicon.ico"):
        assert exchange(page.base, request("GET", name, f"Range: bytes={asked}")).status == 416
    answer = exchange(page.base, request("GET", f"/gradio_api/file={path}", "Range: bytes=2-4"))
    assert (answer.status, answer.body) == (206, b"234")
    Path(path).unlink()


@pytest.mark.parametrize(
    "name",
    [
        "/etc/passwd",
        "/../etc/passwd",
        "..%2f..%2fetc%2fpasswd",
        "/proc/self/environ",
        "web_app.py",
        "/dev/zero",
        "~/x",
    ],
)
@pytest.mark.parametrize("more", ["", "%00", "/" + "a" * 900])
def test_no_file_outside_the_uploads_is_served(page: Page, name: str, more: str) -> None:
    assert exchange(page.base, request("GET", f"/gradio_api/file={name}{more}")).status == 404
    assert exchange(page.base, request("GET", f"/gradio_api/file/{name}{more}")).status == 404


@pytest.mark.parametrize("host", ["[", "a b", "a@b", "999.1.1.1", "a:b", "\xe9", "a/../b", ""])
@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info", "/status"])
def test_an_invalid_host_is_refused(page: Page, path: str, host: str) -> None:
    assert exchange(page.base, request("GET", path, host=host)).status == 400


@pytest.mark.parametrize("name", ["X-Forwarded-Host", "X-Gradio-Server", "X-Forwarded-Proto", "Forwarded"])
@pytest.mark.parametrize("value", ["evil.example", "[", "http://evil.example", "https"])
def test_forwarding_headers_of_untrusted_clients_are_ignored(page: Page, name: str, value: str) -> None:
    for path in ("/", "/config", "/gradio_api/info"):
        answer = exchange(page.base, request("GET", path, f"{name}: {value}"))
        assert answer.status == 200
        assert b"evil.example" not in answer.body
        assert b"https://127.0.0.1" not in answer.body


def test_the_first_callers_host_is_not_cached_for_others(page: Page) -> None:
    exchange(page.base, request("GET", "/gradio_api/info", host="evil.example"))
    assert b"evil.example" not in exchange(page.base, request("GET", "/gradio_api/info")).body


@pytest.mark.parametrize(
    "query",
    [
        "deep_link=x",
        "deep_link=../../x",
        "page=x",
        "__theme=x",
        "all_endpoints=%ff",
        "%ff" * 500,
        "&" * 5000,
    ],
)
def test_an_unknown_query_is_ignored(page: Page, query: str) -> None:
    for path in ("/", "/config", "/gradio_api/info", "/theme.css", "/gradio_api/startup-events"):
        assert exchange(page.base, request("GET", f"{path}?{query}")).status == 200

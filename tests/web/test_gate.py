"""The layer in front of Gradio: closed paths, bounded bodies, headers that keep the browser at home."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from page import bodies
from page.bodies import DRAINED_BYTES
from page.gate import JSON_BYTES, MULTIPART_BYTES, UPLOAD_SLACK, Gate
from page.operations.routes import GUARDED, LOGIN

MAX_BYTES = 1000


def ask(
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    operations: bool = False,
    closing: bool = False,
    root_path: str = "",
) -> tuple[int, dict[str, str]]:
    """Status and headers of the answer; the application behind the gate answers 200 to everything."""
    sent: list[Any] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "headers": raw}
    gate = Gate(behind, max_bytes=MAX_BYTES, operations=operations, root_path=root_path)
    if closing:
        gate.close()
    asyncio.run(gate(scope, receive, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/status",
        "/config",
        "/theme.css",
        "/assets/index.js",
        "/static/fonts/a.woff2",
        "/example/3",
        "/gradio_api/info",
        "/gradio_api/queue/data",
        "/gradio_api/heartbeat/abc123",
        "/gradio_api/call/judge/0a1b",
        "/gradio_api/file=/tmp/uploads/x/red circle.png",
    ],
)
def test_what_the_page_uses_is_open(path: str) -> None:
    assert ask("GET", path)[0] == 200
    assert ask("HEAD", path)[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        "/docs",
        "/openapi.json",
        "/monitoring",
        "/monitoring/summary",
        "/login",
        "/gradio_api/proxy=http://127.0.0.1/",
        "/gradio_api/file=http://127.0.0.1/secret",
        "/gradio_api/file=file:///etc/passwd",
        "/gradio_api/deep_link",
        "/gradio_api/runs",
        "/gradio_api/vibe-code",
        "/gradio_api/custom_component/a/b/c/d",
        "/gradio_api/stream/a/b/c/playlist.m3u8",
        "/gradio_api/dev/reload",
    ],
)
def test_what_the_page_does_not_use_is_closed(path: str) -> None:
    assert ask("GET", path)[0] == 404


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/run/judge", "/gradio_api/process_recording", "/gradio_api/vibe-edit", "/login", "/status"],
)
def test_posts_are_closed_except_those_the_page_makes(path: str) -> None:
    assert ask("POST", path, {"content-length": "2"})[0] == 404
    assert ask("POST", "/gradio_api/call/judge", {"content-length": "2"})[0] == 200


@pytest.mark.parametrize(("path", "method"), [*GUARDED.items(), (LOGIN, "POST")])
def test_the_operators_paths_are_open_only_where_there_is_a_tab(path: str, method: str) -> None:
    bodies = {"POST": {"content-length": "2"}, "GET": {}}
    assert ask(method, path, bodies[method])[0] == 404
    assert ask(method, path, bodies[method], operations=True)[0] == 200
    other = "GET" if method == "POST" else "POST"
    assert ask(other, path, bodies[other], operations=True)[0] == 404
    assert ask(method, f"{path}/x", bodies[method], operations=True)[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_closed(method: str) -> None:
    assert ask(method, "/")[0] == 405


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/gradio_api/queue/join", JSON_BYTES),
        ("/gradio_api/upload", MAX_BYTES * UPLOAD_SLACK + MULTIPART_BYTES),
    ],
)
def test_bodies_are_bounded_before_they_are_read(path: str, limit: int) -> None:
    assert ask("POST", path, {"content-length": str(limit)})[0] == 200
    assert ask("POST", path, {"content-length": str(limit + 1)})[0] == 413


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 411),
        ({"content-length": "-1"}, 400),
        ({"content-length": "\u00b2"}, 400),
        ({"content-length": "2", "transfer-encoding": "chunked"}, 400),
        ({"transfer-encoding": "chunked"}, 200),
    ],
    ids=str,
)
def test_it_must_be_certain_where_a_body_ends(headers: dict[str, str], status: int) -> None:
    assert ask("POST", "/gradio_api/upload", headers)[0] == status


@pytest.mark.parametrize("headers", [{"content-length": "2"}, {"transfer-encoding": "chunked"}])
def test_a_question_without_a_body_has_none(headers: dict[str, str]) -> None:
    assert ask("GET", "/status", headers)[0] == 400
    assert ask("GET", "/status", {"content-length": "0"})[0] == 200


def test_a_refused_body_is_read_within_bounds() -> None:
    """An endless one, which a header says nothing about."""
    read = 0

    async def receive() -> Any:
        nonlocal read
        read += 65536
        return {"type": "http.request", "body": b"x" * 65536, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    sent: list[Any] = []
    headers = [(b"transfer-encoding", b"chunked")]
    scope = {"type": "http", "method": "POST", "path": "/nothing", "headers": headers}
    asyncio.run(Gate(None, max_bytes=MAX_BYTES)(scope, receive, send))  # type: ignore[arg-type]
    assert (sent[0]["status"], dict(sent[0]["headers"])[b"connection"]) == (404, b"close")
    assert read <= DRAINED_BYTES + 65536


def test_a_refused_body_that_has_an_end_is_read_before_the_answer() -> None:
    """A proxy closes its caller's connection when it has the whole answer, in the middle of sending."""
    events: list[str] = []

    async def receive() -> Any:
        events.append("read")
        return {"type": "http.request", "body": b"x" * 65536, "more_body": len(events) < 10}

    async def send(message: Any) -> None:
        events.append(message["type"])

    headers = [(b"content-length", b"655360")]
    scope = {"type": "http", "method": "POST", "path": "/nothing", "headers": headers}
    asyncio.run(Gate(None, max_bytes=MAX_BYTES)(scope, receive, send))  # type: ignore[arg-type]
    assert events[:11] == ["read"] * 10 + ["http.response.start"]
    assert "read" not in events[10:]


def test_a_body_that_stops_coming_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "DRAINED_SECONDS", 0.05)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def send(message: Any) -> None:
        sent.append(message)

    sent: list[Any] = []
    scope = {"type": "http", "method": "POST", "path": "/nothing", "headers": [(b"content-length", b"9")]}
    asyncio.run(Gate(None, max_bytes=MAX_BYTES)(scope, receive, send))  # type: ignore[arg-type]
    assert sent[-1].get("more_body", False) is False


def test_who_waits_for_leave_to_send_is_refused_without_it() -> None:
    async def receive() -> Any:
        raise AssertionError("this gives leave")

    async def send(message: Any) -> None:
        sent.append(message)

    sent: list[Any] = []
    headers = [(b"content-length", b"999999999"), (b"expect", b"100-continue")]
    scope = {"type": "http", "method": "POST", "path": "/gradio_api/upload", "headers": headers}
    asyncio.run(Gate(None, max_bytes=MAX_BYTES)(scope, receive, send))  # type: ignore[arg-type]
    assert sent[0]["status"] == 413


@pytest.mark.parametrize(
    ("root", "path", "status"),
    [
        ("/vqa", "/vqa/status", 200),
        ("/vqa", "/status", 200),
        ("/vqa", "/vqa", 308),
        ("/vqa", "/vqab/status", 404),
        ("/vqa", "/vqa/vqa/status", 404),
        ("", "/vqa/status", 404),
    ],
)
def test_what_a_proxy_puts_before_our_paths_may_be_left_in_them(root: str, path: str, status: int) -> None:
    assert ask("GET", path, root_path=root)[0] == status


@pytest.mark.parametrize("path", ["/", "/nothing"])
def test_every_answer_tells_the_browser_to_stay_at_home(path: str) -> None:
    headers = ask("GET", path)[1]
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert not [
        source for sources in policy.values() for source in sources.split() if "//" in source or source == "*"
    ]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_gate_that_closes_takes_no_question_and_lets_answers_out() -> None:
    for path in ("/gradio_api/upload", "/gradio_api/call/judge", "/gradio_api/queue/join"):
        assert ask("POST", path, {"Content-Length": "2"})[0] == 200
        assert ask("POST", path, {"Content-Length": "2"}, closing=True)[0] == 503
    assert ask("GET", "/gradio_api/call/judge/0a1b", closing=True)[0] == 200


def raised_through(error: Exception) -> list[Any]:
    """What is sent when the application behind raises ``error`` after its answer has begun."""
    sent: list[Any] = []

    async def behind(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": "/", "headers": []}
    asyncio.run(Gate(behind, max_bytes=MAX_BYTES)(scope, None, send))  # type: ignore[arg-type]
    return sent


def late(status: int) -> RuntimeError:
    """As Starlette raises it when an answer that has begun turns out to be a refusal."""
    error = RuntimeError("Caught handled exception, but response already started.")
    error.__cause__ = HTTPException(status)
    return error


def test_what_callers_do_is_no_error_and_what_we_do_is_one() -> None:
    assert raised_through(late(404))[-1] == {"type": "http.response.body", "body": b""}
    for ours in (late(500), RuntimeError("ours"), HTTPException(404), OSError()):
        with pytest.raises(type(ours)):
            raised_through(ours)

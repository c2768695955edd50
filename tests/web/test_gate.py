"""The gate in front of Gradio: allowed paths, bounded bodies, security headers."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.exceptions import HTTPException

from page.gate import JSON_BYTES, MULTIPART_BYTES, UPLOAD_SLACK, Gate
from page.operations.routes import GUARDED, LOGIN
from service.http import bodies
from service.http.bodies import DRAINED_BYTES

MAX_BYTES = 1000


async def accept(scope: Any, receive: Any, send: Any) -> None:
    """An application that answers 200 to everything."""
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b""})


async def empty() -> Any:
    """A ``receive`` without a body."""
    return {"type": "http.request", "body": b"", "more_body": False}


def through(gate: Gate, method: str, path: str, headers: dict[str, str], receive: Any = empty) -> list[Any]:
    """Return the messages that the gate sends."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers.items()]
    asyncio.run(gate({"type": "http", "method": method, "path": path, "headers": raw}, receive, send))
    return sent


def ask(
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    *,
    operations: bool = False,
    closing: bool = False,
    root_path: str = "",
) -> tuple[int, dict[str, str]]:
    """Return status and headers of the answer."""
    gate = Gate(accept, max_bytes=MAX_BYTES, operations=operations, root_path=root_path)
    if closing:
        gate.close()
    start = through(gate, method, path, headers or {})[0]
    return start["status"], {name.decode(): value.decode() for name, value in start["headers"]}


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
def test_paths_in_use_are_open(path: str) -> None:
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
def test_other_paths_are_not_found(path: str) -> None:
    assert ask("GET", path)[0] == 404


@pytest.mark.parametrize(
    "path",
    ["/gradio_api/run/judge", "/gradio_api/process_recording", "/gradio_api/vibe-edit", "/login", "/status"],
)
def test_other_posts_are_not_found(path: str) -> None:
    assert ask("POST", path, {"content-length": "2"})[0] == 404
    assert ask("POST", "/gradio_api/call/judge", {"content-length": "2"})[0] == 200


@pytest.mark.parametrize(("path", "method"), [*GUARDED.items(), (LOGIN, "POST")])
def test_operations_paths_are_open_only_with_the_tab(path: str, method: str) -> None:
    bodies = {"POST": {"content-length": "2"}, "GET": {}}
    assert ask(method, path, bodies[method])[0] == 404
    assert ask(method, path, bodies[method], operations=True)[0] == 200
    other = "GET" if method == "POST" else "POST"
    assert ask(other, path, bodies[other], operations=True)[0] == 404
    assert ask(method, f"{path}/x", bodies[method], operations=True)[0] == 404


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_other_methods_are_not_allowed(method: str) -> None:
    assert ask(method, "/")[0] == 405


@pytest.mark.parametrize(
    ("path", "limit"),
    [
        ("/gradio_api/queue/join", JSON_BYTES),
        ("/gradio_api/upload", MAX_BYTES * UPLOAD_SLACK + MULTIPART_BYTES),
    ],
)
def test_bodies_over_the_limit_are_refused_before_they_are_read(path: str, limit: int) -> None:
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
def test_ambiguous_framing_is_refused(headers: dict[str, str], status: int) -> None:
    assert ask("POST", "/gradio_api/upload", headers)[0] == status


@pytest.mark.parametrize("headers", [{"content-length": "2"}, {"transfer-encoding": "chunked"}])
def test_a_get_with_a_body_is_refused(headers: dict[str, str]) -> None:
    assert ask("GET", "/status", headers)[0] == 400
    assert ask("GET", "/status", {"content-length": "0"})[0] == 200


def test_a_refused_body_is_read_within_bounds() -> None:
    """An endless body without Content-Length."""
    read = 0

    async def receive() -> Any:
        nonlocal read
        read += 65536
        return {"type": "http.request", "body": b"x" * 65536, "more_body": True}

    gate = Gate(accept, max_bytes=MAX_BYTES)
    start = through(gate, "POST", "/nothing", {"transfer-encoding": "chunked"}, receive)[0]
    assert (start["status"], dict(start["headers"])[b"connection"]) == (404, b"close")
    assert read <= DRAINED_BYTES + 65536


def test_a_refused_finite_body_is_read_before_the_answer() -> None:
    """A proxy that has the whole answer closes the connection to a client that is still sending."""
    events: list[str] = []

    async def receive() -> Any:
        events.append("read")
        return {"type": "http.request", "body": b"x" * 65536, "more_body": len(events) < 10}

    async def send(message: Any) -> None:
        events.append(message["type"])

    headers = [(b"content-length", b"655360")]
    scope = {"type": "http", "method": "POST", "path": "/nothing", "headers": headers}
    asyncio.run(Gate(accept, max_bytes=MAX_BYTES)(scope, receive, send))
    assert events[:11] == ["read"] * 10 + ["http.response.start"]
    assert "read" not in events[10:]


def test_a_stalled_body_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "DRAINED_SECONDS", 0.05)

    async def receive() -> Any:
        await asyncio.Event().wait()

    gate = Gate(accept, max_bytes=MAX_BYTES)
    sent = through(gate, "POST", "/nothing", {"content-length": "9"}, receive)
    assert sent[0]["status"] == 404
    assert sent[-1].get("more_body", False) is False


def test_expect_100_continue_is_refused_without_reading() -> None:
    async def receive() -> Any:
        raise AssertionError("this would send 100 Continue")

    headers = {"content-length": "999999999", "expect": "100-continue"}
    sent = through(Gate(accept, max_bytes=MAX_BYTES), "POST", "/gradio_api/upload", headers, receive)
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
def test_the_root_path_may_be_left_in_or_removed_by_the_proxy(root: str, path: str, status: int) -> None:
    assert ask("GET", path, root_path=root)[0] == status


@pytest.mark.parametrize("path", ["/", "/nothing"])
def test_every_answer_has_the_security_headers(path: str) -> None:
    headers = ask("GET", path)[1]
    policy = dict(part.strip().split(" ", 1) for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'self'"
    assert not [
        source for sources in policy.values() for source in sources.split() if "//" in source or source == "*"
    ]
    assert headers["x-content-type-options"] == "nosniff"


def test_a_closing_gate_refuses_calls_and_delivers_answers() -> None:
    for path in ("/gradio_api/upload", "/gradio_api/call/judge", "/gradio_api/queue/join"):
        assert ask("POST", path, {"Content-Length": "2"})[0] == 200
        assert ask("POST", path, {"Content-Length": "2"}, closing=True)[0] == 503
    assert ask("GET", "/gradio_api/call/judge/0a1b", closing=True)[0] == 200


def raised_through(error: Exception) -> list[Any]:
    """Return what is sent when the application raises ``error`` after its answer started."""

    async def fail(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise error

    return through(Gate(fail, max_bytes=MAX_BYTES), "GET", "/", {})


def late(status: int) -> RuntimeError:
    """Return the error that Starlette raises for an HTTPException after the answer started."""
    error = RuntimeError("Caught handled exception, but response already started.")
    error.__cause__ = HTTPException(status)
    return error


def test_late_client_errors_end_the_answer_and_server_errors_are_raised() -> None:
    assert raised_through(late(404))[-1] == {"type": "http.response.body", "body": b""}
    for ours in (late(500), RuntimeError("ours"), HTTPException(404), OSError()):
        with pytest.raises(type(ours)):
            raised_through(ours)

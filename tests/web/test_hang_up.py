"""Client disconnects at every stage: no error, and at most one log line without input."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from lab.instances.instance import Instance
from tests.fakes import PATIENCE, until
from tests.web.client import Page, call, serving, upload

SECRET = "xylophonist"
FILE = f'--B\r\nContent-Disposition: form-data; name="files"; filename="{SECRET}.png"\r\n\r\n{SECRET}'
FORM = "multipart/form-data; boundary=B"
JSON = "application/json"
End = Callable[[socket.socket], None]


def close(connection: socket.socket) -> None:
    """Close normally, as a program that exits."""
    connection.close()


def abort(connection: socket.socket) -> None:
    """Reset, as a program killed with unread data."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


class Caller:
    """A client of the page at ``base`` that disconnects by ``end``."""

    def __init__(self, base: str, end: End) -> None:
        self._address = (urlsplit(base).hostname, urlsplit(base).port)
        self._end = end

    def send(self, path: str, kind: str, body: str) -> None:
        """Send the start of a body once the page reads it, then disconnect."""
        fields = f"Host: x\r\nContent-Type: {kind}\r\nContent-Length: 900000\r\nExpect: 100-continue"
        with socket.create_connection(self._address, PATIENCE) as connection:
            connection.sendall(f"POST {path} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 100 ")
            connection.sendall(body.encode())
            self._end(connection)

    def ask(self, path: str, read: int = 0) -> None:
        """Request ``path`` and disconnect after reading ``read`` bytes."""
        with socket.create_connection(self._address, PATIENCE) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            if read:
                assert connection.recv(read)
            self._end(connection)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    with serving(tmp_path_factory.mktemp("page"), "--timeout", "100") as page:
        yield page


def held(page: Page, picture: Any, session: str = "") -> str:
    """Send a request that is held, from a program or a browser's session; return its event id."""
    before = page.output.count("waiting")
    question: dict[str, Any] = {"data": [picture, "hold", None]}
    path = "/gradio_api/call/judge"
    if session:
        events = httpx.get(f"{page.base}/config").json()["dependencies"]
        asks = next(event["id"] for event in events if event["backend_fn"] and len(event["inputs"]) == 4)
        path = "/gradio_api/queue/join"
        question = {"data": [picture, "hold", None, "row"], "fn_index": asks, "session_hash": session}
    joined = httpx.post(page.base + path, json=question)
    until(lambda: page.output.count("waiting") > before)
    return str(joined.raise_for_status().json()["event_id"])


@pytest.mark.parametrize("end", [close, abort])
def test_a_disconnect_is_not_an_error(page: Page, end: End) -> None:
    caller, before = Caller(page.base, end), page.output.count("HUNG_UP")
    picture = page.run(lambda client: upload(client, b"picture"))
    caller.ask("/")
    caller.ask("/", read=10)
    caller.ask(f"/gradio_api/file={picture['path']}")
    caller.ask("/gradio_api/heartbeat/abc", read=10)
    caller.ask(f"/gradio_api/call/judge/{held(page, picture)}")
    caller.ask(f"/gradio_api/call/judge/{held(page, picture)}", read=10)
    held(page, picture, f"s{end.__name__}")
    caller.ask(f"/gradio_api/queue/data?session_hash=s{end.__name__}", read=10)
    for path in ("queue/join", "call/judge", "cancel", "reset"):
        caller.send(f"/gradio_api/{path}", JSON, f'{{"data": "{SECRET}')
    caller.send("/gradio_api/upload", FORM, FILE)
    caller.send("/gradio_api/upload", FORM, "")
    until(lambda: page.output.count("HUNG_UP") >= before + 2)
    page.run(lambda client: call(client, picture, "release", None))
    assert page.run(lambda client: call(client, picture, "a", None))[0] == "complete"
    for word in ("ERROR", "Exception", "Traceback", SECRET):
        assert word not in page.output
    assert page.output.count("INFO | HUNG_UP | PATH=/gradio_api/upload | LENGTH=900000") == before + 2


def test_an_unknown_session_is_not_an_error(page: Page) -> None:
    answer = httpx.get(f"{page.base}/gradio_api/queue/data?session_hash={SECRET}")
    assert "session_not_found" in answer.text
    for word in ("ERROR", "Exception", "Traceback", SECRET):
        assert word not in page.output


def test_the_service_logs_a_disconnect_without_input(running_service: Instance) -> None:
    before = running_service.log.count("HUNG_UP")
    Caller(running_service.page, abort).send("/gradio_api/upload", FORM, FILE)
    until(lambda: running_service.log.count("HUNG_UP") > before)
    assert "| INFO     | HUNG_UP | PATH=/gradio_api/upload | LENGTH=900000\n" in running_service.log
    for text in (running_service.log, running_service.output):
        assert "ASGI" not in text
        assert SECRET not in text


def test_an_internal_error_is_logged_with_its_traceback(tmp_path: Path) -> None:
    async def broken(client: httpx.AsyncClient) -> int:
        await call(client, await upload(client, b"picture"), "state broken", None)
        return (await client.get("/status")).status_code

    with serving(tmp_path) as page:
        assert page.run(broken) == 500
        until(lambda: "AttributeError" in page.output)
        assert "ERROR | BROKEN | MSG=Exception in ASGI application | ERROR=AttributeError" in page.output
        assert "Traceback (most recent call last)" in page.output

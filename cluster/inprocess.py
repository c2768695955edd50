"""Call an ASGI application in this process with a whole request, and get the whole answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from api.context import SPENT
from service.http.bodies import App, Message, Reply
from service.http.errors import log_error


class Call(NamedTuple):
    """One HTTP request as plain values, which any two versions of the service understand.

    Attributes:
        path, query: before and after the question mark.
        headers: names in lower case.
        peer: the address of the other end of the client's connection.
    """

    method: str
    path: str
    query: bytes
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes
    peer: str


async def answer(app: App, call: Call, spent: float) -> Reply:
    """Return what ``app`` answers to ``call``, of whose time limit ``spent`` seconds are used up.

    Cancelling this cancels the call. Raises RuntimeError if ``app`` ends without a complete answer.
    """
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "scheme": "http",
        "method": call.method,
        "path": call.path,
        "raw_path": call.path.encode(),
        "query_string": call.query,
        "root_path": "",
        "headers": list(call.headers),
        "client": (call.peer, 0) if call.peer else None,
        "server": None,
        "extensions": {SPENT: spent},
    }
    received = _Answer()
    try:
        await app(scope, _Request(call.body).receive, received.send)
    except Exception as error:
        log_error("ASGI application", error)
    if not received.complete:
        raise RuntimeError("The application ended without an answer.")
    return Reply(received.status, received.headers, b"".join(received.pieces))


class _Request:
    """``receive`` of a request whose client stays connected."""

    def __init__(self, body: bytes) -> None:
        self._body: bytes | None = body

    async def receive(self) -> Message:
        body, self._body = self._body, None
        if body is None:
            await asyncio.Event().wait()  # until the call is cancelled
        return {"type": "http.request", "body": body, "more_body": False}


class _Answer:
    """``send`` that collects an answer."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: Sequence[tuple[bytes, bytes]] = ()
        self.pieces: list[bytes] = []
        self.complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
        elif message["type"] == "http.response.body":
            self.pieces.append(bytes(message.get("body", b"")))
            self.complete = not message.get("more_body", False)

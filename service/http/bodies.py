"""Request bodies: framing, size limits, and the answer to a refused request.

Bytes are counted as they arrive; Content-Length only makes a refusal earlier.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Final, NamedTuple

from service.http.quota import NoCapacity, Quota, QuotaExceeded

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# How much of a refused body is still read: a client that is cut off while sending may not see the answer.
DRAINED_BYTES: Final = 4 << 20
DRAINED_SECONDS: Final = 2.0

# Memory for bodies being received: of all callers together, and of one.
MEMORY_BYTES: Final = 64 << 20
MEMORY_PER_CALLER: Final = MEMORY_BYTES // 4
RETRY_SECONDS: Final = 2

_LENGTH: Final = re.compile(rb"[0-9]{1,20}")


class Reply(NamedTuple):
    """A complete answer."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]
    body: bytes


class Refused(Exception):
    """The request is refused with ``status`` and a sentence; with a ``code`` the answer is JSON."""

    def __init__(
        self,
        status: int,
        text: str,
        *,
        code: str = "",
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(status)
        self.status = status
        self.text = text
        self.code = code
        self.retry_after = retry_after
        self.headers = headers or {}

    def reply(self) -> Reply:
        body, kind = self.text.encode(), b"text/plain; charset=utf-8"
        if self.code:
            body, kind = json.dumps({"detail": self.text, "code": self.code}).encode(), b"application/json"
        headers = [(b"content-type", kind)]
        headers += [(name.encode(), value.encode()) for name, value in self.headers.items()]
        if self.retry_after is not None:
            headers.append((b"retry-after", str(self.retry_after).encode()))
        return Reply(self.status, headers, body)


class ClientDisconnected(Exception):
    """The client disconnected before its body was complete."""


def too_large() -> Refused:
    return Refused(413, "The request is too large. Make the picture smaller and try again.")


def values(scope: Scope, name: bytes) -> list[bytes]:
    """Return all values of a header."""
    return [value for header, value in scope["headers"] if header == name]


def length(scope: Scope) -> int | None:
    """Return the Content-Length, or None without one."""
    sent = values(scope, b"content-length")
    return int(sent[0]) if sent else None


def check_framing(scope: Scope) -> None:
    """Raises Refused when the end of the body is ambiguous, or when the method allows no body."""
    lengths, codings = values(scope, b"content-length"), values(scope, b"transfer-encoding")
    if lengths and codings:
        raise Refused(400, "Content-Length and Transfer-Encoding exclude each other.")
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(value) for value in lengths):
        raise Refused(400, "Invalid Content-Length.")
    if codings and scope.get("http_version") == "1.0":
        raise Refused(400, "HTTP/1.0 does not support Transfer-Encoding.")
    if scope["method"] in ("GET", "HEAD") and (codings or length(scope)):
        raise Refused(400, f"A {scope['method']} request must not have a body.")


class Body:
    """``receive`` of one request; ``ended`` once nothing more will arrive."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):
            self.ended = True
        return message


def limited(receive: Receive, limit: int) -> Receive:
    """Wrap ``receive`` to raise Refused after more than ``limit`` bytes."""
    received = 0

    async def counted() -> Message:
        nonlocal received
        message = await receive()
        received += len(message.get("body", b""))
        if received > limit:
            raise too_large()
        return message

    return counted


async def pieces(receive: Receive) -> AsyncIterator[bytes]:
    """Yield the body as it arrives. Raises ClientDisconnected."""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return


@contextmanager
def memory_for(memory: Quota, caller: str, size: int) -> Iterator[None]:
    """Hold ``size`` bytes of the memory for bodies. Raises Refused when they are not available."""
    try:
        memory.acquire(caller, size)
    except QuotaExceeded:
        raise Refused(429, "Too many uploads at once from your address.", retry_after=RETRY_SECONDS) from None
    except NoCapacity:
        raise Refused(503, "The server is receiving too many uploads.", retry_after=RETRY_SECONDS) from None
    try:
        yield
    finally:
        memory.release(caller, size)


async def whole(receive: Receive, limit: int) -> bytes:
    """Return the whole body. Raises Refused and ClientDisconnected."""
    return b"".join([piece async for piece in pieces(limited(receive, limit))])


def replayed(body: bytes, receive: Receive) -> Receive:
    """Return a ``receive`` that gives ``body`` in one message and then continues with ``receive``."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def refuse(scope: Scope, body: Body, send: Send, reply: Reply, drained: int = DRAINED_BYTES) -> None:
    """Read at most ``drained`` bytes that are still arriving, send the refusal, close the connection.

    Read first: a proxy that has the whole answer closes its client's connection while the client still sends,
    and most clients read an answer only after sending."""
    headers = [
        *reply.headers,
        (b"content-length", str(len(reply.body)).encode()),
        (b"connection", b"close"),
    ]
    left = 0 if values(scope, b"expect") else drained  # reading would answer Expect with "100 Continue"
    left -= await _drain(body, left)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": True})
    await _drain(body, left)  # for clients that read the answer now; the next line closes the connection
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(body: Body, limit: int) -> int:
    """Drop up to about ``limit`` bytes, within DRAINED_SECONDS; return how many came."""
    read = 0
    with suppress(TimeoutError, ClientDisconnected, Refused):
        async with asyncio.timeout(DRAINED_SECONDS):
            while read < limit and not body.ended:
                message = await body.receive()
                read += len(message.get("body", b""))
    return read

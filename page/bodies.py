"""How a request's body may be framed, how much of it is read, and how a request is refused.

Bytes are counted as they come: what a header says about them is only used to refuse earlier.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager, suppress
from typing import Any, Final

from page.shares import NoneLeft, Shares, ShareUsed

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

# How much of a refused body is read all the same: who is cut off while sending may not see the answer.
DRAINED_BYTES: Final = 4 << 20
DRAINED_SECONDS: Final = 2.0

# Memory that bodies hold while they are received, all together and of one caller.
MEMORY_BYTES: Final = 64 << 20
MEMORY_SHARE: Final = MEMORY_BYTES // 4
RETRY_SECONDS: Final = 2

_LENGTH: Final = re.compile(rb"[0-9]{1,20}")


class Refused(Exception):
    """The request is not served: a status, a sentence for the caller, and headers to go with it."""

    def __init__(self, status: int, text: str, *, code: str = "", retry_after: int | None = None) -> None:
        super().__init__(status)
        self.status = status
        self.text = text
        self.code = code  # with one, the answer is JSON
        self.retry_after = retry_after


class HungUp(Exception):
    """The caller has gone before all of the body was there."""


def too_large() -> Refused:
    return Refused(413, "This is too large. Make the picture smaller and try again.")


def values(scope: Scope, name: bytes) -> list[bytes]:
    """The values of a header, as often as it was sent."""
    return [value for header, value in scope["headers"] if header == name]


def length(scope: Scope) -> int | None:
    """What the caller says the body's length is; None without a word about it."""
    said = values(scope, b"content-length")
    return int(said[0]) if said else None


def check_framing(scope: Scope) -> None:
    """Raises Refused when it is not certain where the body ends, or when there must be none."""
    lengths, coded = values(scope, b"content-length"), values(scope, b"transfer-encoding")
    if lengths and coded:
        raise Refused(400, "Content-Length and Transfer-Encoding exclude each other.")
    if len(lengths) > 1 or not all(_LENGTH.fullmatch(value) for value in lengths):
        raise Refused(400, "Content-Length is not a number of bytes.")
    if coded and scope.get("http_version") == "1.0":
        raise Refused(400, "HTTP/1.0 has no Transfer-Encoding.")
    if scope["method"] in ("GET", "HEAD") and (coded or length(scope)):
        raise Refused(400, f"A {scope['method']} request has no body.")


class Body:
    """``receive`` of one request; knows when there is no more to come."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def receive(self) -> Message:
        message = await self._receive()
        if not message.get("more_body", False):
            self.ended = True
        return message


def limited(receive: Receive, limit: int) -> Receive:
    """``receive`` that raises Refused once more than ``limit`` bytes have come."""
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
    """The body as it comes. Raises HungUp."""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise HungUp
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return


@contextmanager
def memory_for(memory: Shares, caller: str, size: int) -> Iterator[None]:
    """Hold ``size`` bytes of the memory for bodies. Raises Refused where there is none."""
    try:
        memory.take(caller, size)
    except ShareUsed:
        raise Refused(429, "You send too much at once.", retry_after=RETRY_SECONDS) from None
    except NoneLeft:
        raise Refused(503, "Too much is being sent at once.", retry_after=RETRY_SECONDS) from None
    try:
        yield
    finally:
        memory.give(caller, size)


async def whole(receive: Receive, limit: int) -> bytes:
    """The body, in memory. Raises Refused and HungUp."""
    return b"".join([piece async for piece in pieces(limited(receive, limit))])


def replayed(body: bytes, receive: Receive) -> Receive:
    """A ``receive`` that gives ``body`` first, whole, and then waits with the caller."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


async def refuse(scope: Scope, body: Body, send: Send, refused: Refused, drained: int) -> None:
    """Read at most ``drained`` bytes that are still coming, answer with the refusal, close the connection.

    Read first, as a proxy that has the whole answer closes its caller's connection in the middle of sending,
    and most callers look for an answer only after that."""
    text, kind = refused.text, b"text/plain; charset=utf-8"
    if refused.code:
        text, kind = json.dumps({"detail": refused.text, "code": refused.code}), b"application/json"
    answer = text.encode()
    headers = [
        (b"content-type", kind),
        (b"content-length", str(len(answer)).encode()),
        (b"connection", b"close"),
    ]
    if refused.retry_after is not None:
        headers.append((b"retry-after", str(refused.retry_after).encode()))
    left = 0 if values(scope, b"expect") else drained  # reading would send "100 Continue" to who expects it
    left -= await _drain(body, left)
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer, "more_body": True})
    await _drain(body, left)  # a slow caller may look now; the end of the answer closes the connection
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(body: Body, most: int) -> int:
    """Read and drop up to ``most`` bytes, one piece more at most, within DRAINED_SECONDS; how many came."""
    read = 0
    with suppress(TimeoutError, HungUp, Refused):
        async with asyncio.timeout(DRAINED_SECONDS):
            while read < most and not body.ended:
                message = await body.receive()
                read += len(message.get("body", b""))
    return read

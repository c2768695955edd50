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
    """Answer with the refusal, read at most ``drained`` bytes that are still coming, close the connection."""
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
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    # First the answer, for those who look while they send; the end of it closes the connection.
    await send({"type": "http.response.body", "body": answer, "more_body": True})
    if not body.ended and not values(scope, b"expect"):  # who waits for leave to send is not given it
        await _drain(body.receive, drained)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive, most: int) -> None:
    read = 0
    with suppress(TimeoutError, HungUp, Refused):
        async with asyncio.timeout(DRAINED_SECONDS):
            async for piece in pieces(receive):
                read += len(piece)
                if read > most:
                    return

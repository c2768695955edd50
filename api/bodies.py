"""Receive the body of a call within limits of size, memory and time, and parse JSON strictly.

Nothing touches the disk.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any, Final

from api.context import context_of
from api.problems import Problem
from service.contract.causes import ApiCode, Refusal
from service.contract.request import MAX_TEXTS
from service.http.bodies import Receive, Scope, length, limited, pieces
from service.http.quota import NoCapacity, Quota, QuotaExceeded
from service.settings import Settings

BODY_SECONDS: Final = 60.0  # to receive a body
RETRY_SECONDS: Final = 2
SPARE_BYTES: Final = 65_536  # for headers of parts, names of fields, white space
#: Peak memory of a call as a multiple of its body. A form: the part and its copy. JSON: the body, the parsed
#: string, the decoded picture.
FORM_COPIES: Final = 2
JSON_COPIES: Final = 3
_ESCAPED: Final = 12  # bytes of one character in JSON at most: two \\uXXXX
_UTF8: Final = 4


class Limits:
    """The limits on bodies.

    Attributes:
        form, json: the largest body in bytes.
        values: the most values in a JSON document.
        seconds: how long a body may take to arrive.
        memory: the quota in bytes.
    """

    def __init__(self, settings: Settings) -> None:
        chars = (MAX_TEXTS + 1) * settings.max_chars
        self.form = settings.max_bytes + _UTF8 * chars + SPARE_BYTES
        self.json = settings.max_bytes * 4 // 3 + _ESCAPED * chars + SPARE_BYTES
        self.values = chars + 1024
        self.seconds = BODY_SECONDS
        largest = JSON_COPIES * self.json
        self.memory = Quota(2 * largest, largest)

    @contextmanager
    def held(self, scope: Scope) -> Iterator[Held]:
        """Hold memory for the body of a request until the end of the context."""
        held = Held(self.memory, context_of(scope).caller)
        try:
            yield held
        finally:
            held.release()


class Held:
    """The memory that one call holds."""

    def __init__(self, memory: Quota, caller: str) -> None:
        self._memory = memory
        self._caller = caller
        self._bytes = 0

    def require(self, size: int) -> None:
        """Hold ``size`` bytes in all. Raises Problem when they are not available."""
        if size <= self._bytes:
            return
        try:
            self._memory.acquire(self._caller, size - self._bytes)
        except QuotaExceeded:
            raise Problem(Refusal.CALLER_LIMIT, retry_after=RETRY_SECONDS) from None
        except NoCapacity:
            raise Problem(ApiCode.NO_ROOM, retry_after=RETRY_SECONDS) from None
        self._bytes = size

    def release(self) -> None:
        self._memory.release(self._caller, self._bytes)
        self._bytes = 0


async def received(
    scope: Scope, receive: Receive, limits: Limits, held: Held, *, most: int, copies: int
) -> AsyncIterator[bytes]:
    """Yield the body in pieces. Raises Problem, Refused and ClientDisconnected."""
    if (length(scope) or 0) > most:
        raise Problem(ApiCode.TOO_LARGE)
    held.require(copies * (length(scope) or 0))
    end, size = asyncio.get_running_loop().time() + limits.seconds, 0
    arriving = pieces(limited(receive, most))
    while True:
        try:
            async with asyncio.timeout_at(end):
                piece = await anext(arriving)
        except StopAsyncIteration:
            return
        except TimeoutError:
            raise Problem(ApiCode.TOO_SLOW) from None
        size += len(piece)
        held.require(copies * size)
        yield piece


def parse_json(body: bytes, most_values: int) -> dict[str, Any]:
    """Parse a JSON object. Raises Problem for anything that is not strict JSON, and for too many values."""
    # Values need one of these characters each. Counted first, as millions of empty lists are hundreds of MB.
    if sum(body.count(mark) for mark in (b",", b"[", b"{")) > most_values:
        raise Problem(ApiCode.MALFORMED, "malformed.json")
    try:
        content = json.loads(body.decode(), parse_constant=_reject, object_pairs_hook=_unique)
    except (ValueError, RecursionError):
        raise Problem(ApiCode.MALFORMED, "malformed.json") from None
    if not isinstance(content, dict):
        raise Problem(ApiCode.MALFORMED, "malformed.json")
    return content


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("duplicate key")
    return found


def _reject(constant: str) -> None:
    raise ValueError(constant)  # NaN and infinities are not JSON

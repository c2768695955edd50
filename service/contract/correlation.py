"""Identifiers that clients give their requests, to find them in our logs: X-Request-ID, traceparent."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

_CLIENT_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")
# https://www.w3.org/TR/trace-context/#traceparent-header; a later version may append fields.
_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?"
)


@dataclass(frozen=True, slots=True)
class Trace:
    """The trace that a request belongs to and the client's span in it, in hexadecimal digits; ``sampled``:
    whether the client records it."""

    trace_id: str
    parent_id: str
    sampled: bool


def client_id_of(header: str | None) -> str:
    """Return an X-Request-ID that may be logged and returned; "" for a missing or unsuitable one."""
    return header if header is not None and _CLIENT_ID.fullmatch(header) else ""


def trace_of(header: str | None) -> Trace | None:
    """Return the trace of a W3C traceparent; None for a missing or invalid one, as the standard asks."""
    found = None if header is None else _TRACEPARENT.fullmatch(header.strip(" \t"))
    if found is None or (found[1] == "00" and found[5]):
        return None
    return Trace(found[2], found[3], bool(int(found[4], 16) & 1))

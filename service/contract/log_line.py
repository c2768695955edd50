"""The form of a log line: ``EVENT | KEY=value | KEY=value``; a request's line has its id after the event."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

_SEPARATOR: Final = " | "
_KEY: Final = re.compile(r"[A-Z][A-Z0-9_]*")


def fields(**values: object) -> str:
    """Return `` | KEY=value`` for each value that is not None."""
    return "".join(f"{_SEPARATOR}{key.upper()}={value}" for key, value in values.items() if value is not None)


def split(message: str) -> dict[str, str]:
    """Return the parts of a message: ``event``, ``request_id`` if it has one, and the upper-case fields.

    ``join`` restores the message exactly: a part that is no new field belongs to the value before it.
    """
    event, *parts = message.split(_SEPARATOR)
    record, last = {"event": event}, "event"
    for part in parts:
        key, equals, value = part.partition("=")
        if equals and key not in record and _KEY.fullmatch(key):
            record[key], last = value, key
        elif last == "event":
            record["request_id"], last = part, "request_id"
        else:
            record[last] += _SEPARATOR + part
    return record


def join(record: Mapping[str, object]) -> str:
    """Return the message of ``record``. Its other lower-case keys are left out. Raises KeyError without an
    event."""
    head = [record[key] for key in ("event", "request_id") if key == "event" or key in record]
    return _SEPARATOR.join(
        [*map(str, head), *(f"{key}={value}" for key, value in record.items() if _KEY.fullmatch(key))]
    )

"""Validation of calls to Gradio's queue: each body is parsed, checked and rebuilt from the fields it needs.

Gradio does not validate the fields of a body, and an unexpected one ends in a traceback that quotes the
input. Only events with a server function can be called, and only the fields in use are passed on.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any, Final, TypeGuard

from service.http.bodies import Refused

ARGUMENTS: Final = 8  # per call
DEPTH: Final = 8  # nesting; a picture needs two levels
VALUES: Final = 256  # per call; a picture needs ten
ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # of a session or an event
MAX_NUMBER: Final = 1_000_000

CODE: Final = "bad_call"
NAMED: Final = frozenset({"image", "text", "premise"})  # the API's arguments


def read(body: bytes) -> Any:
    """Parse a body. Raises Refused for invalid JSON, and for too many or too deeply nested values."""
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_reject)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not valid JSON.", code=CODE) from None
    if _too_complex(content):
        raise Refused(422, "The call has too many or too deeply nested values.", code=CODE)
    return content


class CallValidator:
    """Validates calls. ``functions`` are the numbers of the page's events that have a server function."""

    def __init__(self, functions: Collection[int]) -> None:
        self._functions = frozenset(functions)
        self._rebuild: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "queue/join": self._join,
            "call/judge": _judge,
            "call/v2/judge": _judge_by_name,
            "cancel": _cancel,
            "reset": _reset,
        }

    def validated(self, path: str, body: bytes) -> bytes:
        """Return the body to pass on for a call to ``path``. Raises Refused."""
        content = read(body)
        if not isinstance(content, dict):
            raise _invalid("a JSON object")
        rebuild = self._rebuild[path.removeprefix("/gradio_api/").rstrip("/")]
        try:
            return json.dumps(rebuild(content), allow_nan=False).encode()
        except ValueError:
            raise _invalid("finite numbers") from None

    def _join(self, content: dict[str, Any]) -> dict[str, Any]:
        function = _number(content, "fn_index")
        if function not in self._functions:
            raise Refused(404, "Unknown function.", code=CODE)
        event = content.get("event_data")
        index = event.get("index") if isinstance(event, dict) else None
        return {
            "data": _arguments(content),
            "fn_index": function,
            "session_hash": _id(content, "session_hash"),
            "event_data": {"index": index} if _is_number(index) else None,
        }


def _judge(content: dict[str, Any]) -> dict[str, Any]:
    return {"data": _arguments(content)}


def _judge_by_name(content: dict[str, Any]) -> dict[str, Any]:
    if not {"image", "text"} <= content.keys() or not content.keys() <= NAMED:
        raise _invalid('"image", "text" and optionally "premise"')
    return content


def _cancel(content: dict[str, Any]) -> dict[str, Any]:
    ids = {name: _id(content, name) for name in ("session_hash", "event_id")}
    return {**ids, "fn_index": _number(content, "fn_index")}


def _reset(content: dict[str, Any]) -> dict[str, Any]:
    return {"event_id": _id(content, "event_id")}


def _arguments(content: dict[str, Any]) -> list[Any]:
    data = content.get("data")
    if not isinstance(data, list) or len(data) > ARGUMENTS:
        raise _invalid(f'"data", a list of at most {ARGUMENTS}')
    return data


def _id(content: dict[str, Any], name: str) -> str:
    value = content.get(name)
    if not isinstance(value, str) or not ID.fullmatch(value):
        raise _invalid(f'"{name}", at most 64 letters, digits, _ and -')
    return value


def _number(content: dict[str, Any], name: str) -> int:
    number = content.get(name)
    if not _is_number(number):
        raise _invalid(f'"{name}", a number')
    return number


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_NUMBER


def _invalid(required: str) -> Refused:
    return Refused(422, f"Invalid call. It needs {required}.", code=CODE)


def _too_complex(content: object) -> bool:
    """Whether there are more than VALUES values, or more than DEPTH levels."""
    level, count = [content], 0
    for _ in range(DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, list | dict)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
        count += len(level)
        if not level or count > VALUES:
            return count > VALUES
    return True


def _reject(constant: str) -> None:
    raise ValueError(constant)  # NaN and infinities are not JSON

"""What may be asked of Gradio's queue: each call is read, checked and written anew with what it needs alone.

Gradio believes the numbers, names and events in a body, and an odd one ends in a traceback with the caller's
words in it. So only functions that have something to run can be named, and nothing is passed on that the page
and its API do not use.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from typing import Any, Final, TypeGuard

from page.bodies import Refused

ARGUMENTS: Final = 8  # of one call
DEPTH: Final = 8  # lists and objects in each other; a picture needs two
VALUES: Final = 256  # in one call; a picture needs ten
WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")  # what names a session or an event
NUMBER: Final = 1_000_000

CODE: Final = "bad_call"
NAMED: Final = ("image", "text", "premise")  # the API's arguments, in order


def read(body: bytes) -> Any:
    """A body's JSON. Raises Refused for everything that is none, too deep or too large."""
    try:
        content = json.loads(body.decode("utf-8"), parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise Refused(400, "This is not JSON.", code=CODE) from None
    if _too_much(content):
        raise Refused(422, "There is too much in this call.", code=CODE)
    return content


class Calls:
    """The calls on a page. ``functions`` are the numbers of its events that run something here."""

    def __init__(self, functions: Collection[int]) -> None:
        self._functions = frozenset(functions)
        self._forms: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
            "queue/join": self._join,
            "call/judge": _judge,
            "call/v2/judge": _judge_by_name,
            "cancel": _cancel,
            "reset": _reset,
        }

    def checked(self, path: str, body: bytes) -> bytes:
        """The body of a call on ``path`` as it is passed on. Raises Refused."""
        content = read(body)
        if not isinstance(content, dict):
            raise _not_understood("an object")
        form = self._forms[path.removeprefix("/gradio_api/").rstrip("/")]
        try:
            return json.dumps(form(content), allow_nan=False).encode()
        except ValueError:
            raise _not_understood("numbers that are finite") from None

    def _join(self, content: dict[str, Any]) -> dict[str, Any]:
        function = _number(content, "fn_index")
        if function not in self._functions:
            raise Refused(404, "There is no such function.", code=CODE)
        event = content.get("event_data")
        index = event.get("index") if isinstance(event, dict) else None
        return {
            "data": _arguments(content),
            "fn_index": function,
            "session_hash": _word(content, "session_hash"),
            "event_data": {"index": index} if _is_number(index) else None,
        }


def _judge(content: dict[str, Any]) -> dict[str, Any]:
    return {"data": _arguments(content)}


def _judge_by_name(content: dict[str, Any]) -> dict[str, Any]:
    if not {"image", "text"} <= content.keys() or not content.keys() <= set(NAMED):
        raise _not_understood('"image", "text" and, if wanted, "premise"')
    return content


def _cancel(content: dict[str, Any]) -> dict[str, Any]:
    words = {name: _word(content, name) for name in ("session_hash", "event_id")}
    return {**words, "fn_index": _number(content, "fn_index")}


def _reset(content: dict[str, Any]) -> dict[str, Any]:
    return {"event_id": _word(content, "event_id")}


def _arguments(content: dict[str, Any]) -> list[Any]:
    data = content.get("data")
    if not isinstance(data, list) or len(data) > ARGUMENTS:
        raise _not_understood(f'"data", a list of at most {ARGUMENTS}')
    return data


def _word(content: dict[str, Any], name: str) -> str:
    word = content.get(name)
    if not isinstance(word, str) or not WORD.fullmatch(word):
        raise _not_understood(f'"{name}", at most 64 letters and digits')
    return word


def _number(content: dict[str, Any], name: str) -> int:
    number = content.get(name)
    if not _is_number(number):
        raise _not_understood(f'"{name}", a number')
    return number


def _is_number(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < NUMBER


def _not_understood(wanted: str) -> Refused:
    return Refused(422, f"The call is not understood. It needs {wanted}.", code=CODE)


def _too_much(content: object) -> bool:
    """Whether there are too many values, or too many in each other."""
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


def _no_number(name: str) -> None:
    raise ValueError(name)

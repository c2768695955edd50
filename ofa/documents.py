"""Text and JSON of unknown origin: what may be in a model folder or in a line of input.

Sizes, nesting and numbers are bounded, so that whatever a file holds costs no more memory than its limit
allows, and every fault of its content is a ValueError that says what is wrong without quoting it.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Final

#: The largest file that is neither weights nor vocabulary, in bytes; published configurations have 3,000.
MAX_FILE: Final = 1 << 20
#: Levels of lists and objects in each other; configurations and cards have four.
MAX_DEPTH: Final = 32
_MAX_DIGITS: Final = 18  # of a whole number that is read as one: all such fit 64 bits


def read_text(path: Path, limit: int = MAX_FILE) -> str:
    """The text of a regular file of at most ``limit`` bytes, in UTF-8. Raises OSError, ValueError."""
    with open(path, "rb", opener=_without_waiting) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        content = file.read(limit + 1) if status.st_size <= limit else b""
    if max(len(content), status.st_size) > limit:
        raise ValueError(f"larger than {limit} bytes")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"not in UTF-8 (byte {error.start})") from error


def read_json(path: Path, limit: int = MAX_FILE) -> object:
    """The JSON value in a file; :func:`read_text` and :func:`parse`. Raises OSError, ValueError."""
    return parse(read_text(path, limit))


def parse(text: str) -> object:
    """The JSON value of ``text``. Raises ValueError: not JSON, or nested deeper than MAX_DEPTH.

    A whole number of more than 18 digits becomes a float, so that it has no place where a whole number is
    required, and a message can name the field.
    """
    try:
        value = json.loads(text, parse_int=_whole_number)
        if _within(value, MAX_DEPTH):
            return value
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error}") from error
    except RecursionError:
        pass
    raise ValueError(f"nested deeper than {MAX_DEPTH} levels")


def _without_waiting(path: str, flags: int) -> int:
    """Opening a named pipe would otherwise wait for a writer."""
    return os.open(path, flags | os.O_NONBLOCK)


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _within(value: object, levels: int) -> bool:
    """Whether ``value`` has no more than so many levels of lists and objects."""
    if not isinstance(value, dict | list):
        return True
    children = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_within(child, levels - 1) for child in children)

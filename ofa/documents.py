"""Read untrusted text and JSON, from a model folder or a line of input.

Sizes, nesting and numbers are bounded, which bounds the memory. Invalid content raises a ValueError that
completes "it is …" and does not quote the content.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Final

#: Size limit of files other than weights and vocabulary, in bytes; published configurations have 3,000.
MAX_FILE: Final = 1 << 20
#: Nesting levels of lists and objects; configurations and cards have four.
MAX_DEPTH: Final = 32
_MAX_DIGITS: Final = 18  # of an integer, so that it fits 64 bits


def read_text(path: Path, limit: int = MAX_FILE) -> str:
    """Read a regular UTF-8 file of at most ``limit`` bytes. Raises OSError, ValueError."""
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
    """Read the JSON value in a file. Raises OSError, ValueError."""
    return parse(read_text(path, limit))


def parse(text: str) -> object:
    """Parse JSON. Raises ValueError if it is invalid or nested deeper than MAX_DEPTH.

    An integer of more than 18 digits becomes a float, so that validation rejects it by field.
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
    """Open without blocking on a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK)


def _whole_number(digits: str) -> int | float:
    return int(digits) if len(digits) <= _MAX_DIGITS else float(digits)


def _within(value: object, levels: int) -> bool:
    """Whether ``value`` has at most ``levels`` levels of lists and objects."""
    if not isinstance(value, dict | list):
        return True
    children = value.values() if isinstance(value, dict) else value
    return levels > 0 and all(_within(child, levels - 1) for child in children)

"""JSON lines, of a list and of the command line's standard input."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final

from ofa import documents
from service.contract.causes import LineCode
from service.contract.errors import InputError

MAX_ID: Final = 256  # characters


def numbered(stream: BinaryIO, max_line: int) -> Iterator[tuple[int, bytes | None]]:
    """Number and content of lines that are not blank; None for a line longer than ``max_line`` bytes."""
    number = 0
    while line := stream.readline(max_line):
        number += 1
        if len(line) == max_line and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(max_line)
            yield number, None
        elif line.strip():
            yield number, line


def parse(line: bytes | None, max_line: int) -> dict[str, Any]:
    """Parse a line. Raises InputError with a LineCode."""
    if line is None:
        raise InputError(
            f"The line has more than {max_line} bytes.", code=LineCode.LINE_TOO_LONG, remedy="Shorten it."
        )
    remedy = 'A line is {"image": FILE, "text": TEXT} in UTF-8.'
    try:
        fields = documents.parse(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError("The line is not in UTF-8.", code=LineCode.MALFORMED, remedy=remedy) from error
    except ValueError as error:
        raise InputError(f"The line is {error}.", code=LineCode.MALFORMED, remedy=remedy) from error
    if not isinstance(fields, dict):
        raise InputError("The line is not a JSON object.", code=LineCode.MALFORMED, remedy=remedy)
    return fields


def check_id(name: object) -> None:
    """Raises InputError: ``malformed``."""
    if type(name) not in (str, int, type(None)) or len(str(name)) > MAX_ID:
        raise InputError(
            "The id must be an integer or a short string.",
            code=LineCode.MALFORMED,
            remedy=f"Use at most {MAX_ID} characters.",
        )

"""Streaming parser for a form: each part goes to its target as it arrives, or is counted and dropped.

Character sets and transfer encodings in the form are ignored. Parts, headers, fields and the boundary are
bounded.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from typing import Final, Generic, Protocol, TypeVar

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

PARTS: Final = 8
PART_HEADERS: Final = 8
HEADER_BYTES: Final = 2048
FIELD_BYTES: Final = 4096  # of all parts without a target

# RFC 2046, 5.1.1; no parameter but the boundary.
_CONTENT_TYPE: Final = re.compile(
    r"multipart/form-data[ \t]*;[ \t]*boundary=(?:\"([\w'()+,./:=? -]{1,70})\"|([\w'()+./:=?-]{1,70}))[ \t]*",
    re.ASCII | re.IGNORECASE,
)

# It logs a line for every malformed form, and any client can send those.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class FormError(Exception):
    """The form is malformed or over a limit. The message is for the caller."""


T_co = TypeVar("T_co", covariant=True)


class Target(Protocol[T_co]):
    """Receives one part. ``finish`` returns what the form's ``finish`` lists."""

    def write(self, data: bytes) -> None: ...

    def finish(self) -> T_co: ...

    def discard(self) -> None: ...


def boundary_of(content_type: str) -> bytes:
    """Return the boundary from a Content-Type. Raises FormError."""
    found = _CONTENT_TYPE.fullmatch(content_type.strip())
    if found is None:
        raise FormError(
            "Send the picture as a form: Content-Type: multipart/form-data; boundary=…, no other parameter."
        )
    return (found[1] or found[2]).encode("ascii")


class Form(Generic[T_co]):
    """Parses the bytes given to ``feed``. ``create`` gets a part's name and its file name, None if it has
    none; it returns the part's target, or None to drop the part, or raises FormError. Call ``finish`` or
    ``discard`` at the end. Not thread-safe."""

    def __init__(
        self,
        boundary: bytes,
        create: Callable[[str, str | None], Target[T_co] | None],
        max_parts: int = PARTS,
    ) -> None:
        self._create = create
        self._max_parts = max_parts
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part_begins,
                "on_header_begin": self._header_begins,
                "on_header_field": self._header_name,
                "on_header_value": self._header_value,
                "on_header_end": self._header_ends,
                "on_headers_finished": self._headers_end,
                "on_part_data": self._data,
                "on_part_end": self._part_ends,
                "on_end": self._ends,
            },
            max_header_count=PART_HEADERS,
            max_header_size=HEADER_BYTES,
        )
        self._parts = 0
        self._field_bytes = 0
        self._name = self._value = self._disposition = b""
        self._target: Target[T_co] | None = None
        self._finished: list[T_co] = []
        self._done: list[Target[T_co]] = []
        self._complete = False
        self.file_name = ""  # of the current file, as the client sent it
        self.file_bytes = 0  # of all parts with a target so far

    def feed(self, data: bytes) -> None:
        """Parse more bytes. Raises FormError and the target's errors."""
        if self._complete:
            if data.strip(b"\r\n"):
                raise FormError("The form has data after its end.")
            return
        try:
            self._parser.write(data)
        except MultipartParseError:
            raise FormError("The form is malformed.") from None

    def finish(self) -> list[T_co]:
        """Return what the targets returned, in the form's order. Raises FormError."""
        if not self._complete:
            raise FormError("The form is incomplete.")
        return self._finished

    def discard(self) -> None:
        """Discard all targets."""
        for target in (*self._done, *([self._target] if self._target else [])):
            target.discard()

    # ---- parser callbacks -----------------------------------------------------------------------------

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > self._max_parts:
            raise FormError(f"A form may have at most {self._max_parts} parts.")
        self._disposition = b""

    def _header_begins(self) -> None:
        self._name = self._value = b""

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_ends(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value

    def _headers_end(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name, raw_file_name = options.get(b"name"), options.get(b"filename")
        if kind != b"form-data" or name is None:
            raise FormError("A part of the form has no name.")
        file_name = None
        if raw_file_name is not None:
            file_name = raw_file_name.decode("utf-8", errors="replace").replace("%22", '"')
            self.file_name = file_name
        self._target = self._create(name.decode("utf-8", errors="replace"), file_name)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._target is not None:
            self._target.write(data[start:end])
            self.file_bytes += end - start
            return
        self._field_bytes += end - start
        if self._field_bytes > FIELD_BYTES:
            raise FormError(f"Other fields may have at most {FIELD_BYTES} bytes.")

    def _part_ends(self) -> None:
        if self._target is not None:
            target, self._target = self._target, None
            self._done.append(target)
            self._finished.append(target.finish())

    def _ends(self) -> None:
        self._complete = True

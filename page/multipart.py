"""A form with files, read as it comes: a file goes straight to disk, all else is counted and thrown away.

Nothing is decoded: a form or a part that names a character set makes nobody run it. Everything a caller can
make long is bounded: parts, headers, fields, the boundary.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header

FIELD: Final = b"files"  # the name under which Gradio's clients, and curl in the README, send a picture
PARTS: Final = 8
PART_HEADERS: Final = 8
HEADER_BYTES: Final = 2048
FIELD_BYTES: Final = 4096  # of all parts together that are not files

# RFC 2046, 5.1.1; of the parameters nothing but the boundary.
_CONTENT_TYPE: Final = re.compile(
    r"multipart/form-data[ \t]*;[ \t]*boundary=(?:\"([\w'()+,./:=? -]{1,70})\"|([\w'()+./:=?-]{1,70}))[ \t]*",
    re.ASCII | re.IGNORECASE,
)

# It writes a line for every malformed form, and strangers send those.
logging.getLogger("python_multipart").setLevel(logging.CRITICAL)


class FormFault(Exception):
    """The form cannot be read, or has something in it that it must not. The message is for the caller."""


class Target(Protocol):
    """Where a file goes: ``page.uploads.Incoming``."""

    def write(self, data: bytes) -> None: ...

    def finish(self) -> Path: ...

    def discard(self) -> None: ...


def boundary_of(content_type: str) -> bytes:
    """The boundary that a Content-Type names. Raises FormFault."""
    found = _CONTENT_TYPE.fullmatch(content_type.strip())
    if found is None:
        raise FormFault(
            'Send the picture as a form: "Content-Type: multipart/form-data; boundary=…", no more in it.'
        )
    return (found[1] or found[2]).encode("ascii")


class Form:
    """Takes a form's bytes with ``feed``; ``create`` makes a target for a file from its name. ``finish`` or
    ``discard`` ends it. Not for two threads at once."""

    def __init__(self, boundary: bytes, create: Callable[[str], Target]) -> None:
        self._create = create
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
        self._target: Target | None = None
        self._paths: list[Path] = []
        self._done: list[Target] = []
        self._complete = False
        self.file_name = ""  # of the file that is being read, as the caller calls it
        self.file_bytes = 0  # of all files, so far

    def feed(self, data: bytes) -> None:
        """Raises FormFault, and what the target raises."""
        if self._complete:
            if data.strip(b"\r\n"):
                raise FormFault("There is something after the end of the form.")
            return
        try:
            self._parser.write(data)
        except MultipartParseError:
            raise FormFault("The form cannot be read.") from None

    def finish(self) -> list[Path]:
        """The paths of the form's files. Raises FormFault."""
        if not self._complete:
            raise FormFault("The form ends in the middle.")
        if not self._paths:
            raise FormFault(f'The form has no file. Send the picture as "{FIELD.decode()}".')
        return self._paths

    def discard(self) -> None:
        """Leave nothing of its files."""
        for target in (*self._done, *([self._target] if self._target else [])):
            target.discard()

    # ---- what the parser finds -----------------------------------------------------------------------------

    def _part_begins(self) -> None:
        self._parts += 1
        if self._parts > PARTS:
            raise FormFault(f"A form may have {PARTS} parts.")
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
        name, file_name = options.get(b"name"), options.get(b"filename")
        if kind != b"form-data" or name is None:
            raise FormFault("A part of the form has no name.")
        if file_name is None and name == FIELD:
            raise FormFault(f'"{FIELD.decode()}" is a text and not a file. With curl: -F files=@PICTURE.')
        if file_name is None:
            return
        if name != FIELD:
            raise FormFault(f'Send the picture as "{FIELD.decode()}".')
        self.file_name = file_name.decode("utf-8", errors="replace").replace("%22", '"')
        self._target = self._create(self.file_name)

    def _data(self, data: bytes, start: int, end: int) -> None:
        if self._target is not None:
            self._target.write(data[start:end])
            self.file_bytes += end - start
            return
        self._field_bytes += end - start
        if self._field_bytes > FIELD_BYTES:
            raise FormFault(f"What is no file may have {FIELD_BYTES} bytes.")

    def _part_ends(self) -> None:
        if self._target is not None:
            target, self._target = self._target, None
            self._done.append(target)
            self._paths.append(target.finish())

    def _ends(self) -> None:
        self._complete = True

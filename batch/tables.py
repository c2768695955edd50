"""Read CSV and TSV: the encoding and the delimiter are found out."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from batch.rows import ListError
from service.contract.causes import LineCode, ListCode
from service.contract.errors import InputError

DELIMITERS: Final = (",", ";", "\t", "|")
MAX_COLUMNS: Final = 4096
_BLOCK: Final = 1 << 20
_MARKS: Final = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


@dataclass(frozen=True, slots=True)
class Record:
    """A line of a table: ``number`` is that of its first line, ``error`` why it cannot be split."""

    number: int
    cells: Sequence[str]
    error: InputError | None = None


class _TooLong(Exception):
    pass


class Lines(Iterator[str]):
    """Lines of text for csv.reader, which reads a record from one or several.

    Raises _TooLong, and continues after that record, when it exceeds ``most`` characters or has more than
    MAX_COLUMNS delimiters in a line.
    """

    def __init__(self, text: io.TextIOWrapper, delimiter: str, most: int) -> None:
        self._text = text
        self._delimiter = delimiter
        self._most = most
        self._left = most
        self._quotes = 0  # of the record; an odd number continues in the next line
        self.read = 0  # lines

    def begin_record(self) -> None:
        self._left, self._quotes = self._most, 0

    def __next__(self) -> str:
        line = self._text.readline(self._left + 1)
        if not line:
            raise StopIteration
        self.read += 1
        self._left -= len(line)
        self._quotes += line.count('"')
        if self._left < 0 or line.count(self._delimiter) > MAX_COLUMNS:
            self._skip(line)
            raise _TooLong
        return line

    def _skip(self, line: str) -> None:
        """Read to the end of the record, of which ``line`` is the last part read."""
        while line and (self._quotes % 2 or not line.endswith(("\n", "\r"))):
            self.read += line.endswith("\n")
            line = self._text.readline(_BLOCK)
            self._quotes += line.count('"')


def encoding_of(stream: BinaryIO) -> str:
    """Return the encoding of all that ``stream`` holds, read from its start. Raises ListError."""
    stream.seek(0)
    start = stream.read(_BLOCK)
    marked = next((name for mark, name in _MARKS.items() if start.startswith(mark)), None)
    if marked is None and b"\0" in start:
        raise _not_text()
    for encoding in (marked,) if marked else ("utf-8", "gb18030"):
        if _decodes(stream, encoding):
            return encoding
    raise _not_text()


def open_table(
    stream: BinaryIO, delimiters: Sequence[str], most: int, good: Callable[[Sequence[str]], bool]
) -> tuple[Sequence[str], str, str, Iterator[Record]]:
    """Return the header, the delimiter, the encoding and the records.

    Of ``delimiters`` the one with which the header is ``good`` is used, else the one with the most columns.
    A record has at most ``most`` characters. Raises ListError.
    """
    encoding = encoding_of(stream)
    best: tuple[bool, int, str] | None = None
    for delimiter in delimiters:
        header = next(_records(stream, encoding, delimiter, most), None)
        if header is None:
            raise ListError("The list is empty.", code=ListCode.LIST_EMPTY, remedy="Add a header and rows.")
        if header.error is None:
            found = (good(named(header.cells)), len(header.cells), delimiter)
            best = found if best is None or found[:2] > best[:2] else best
    if best is None:
        raise ListError(
            "The first line of the list is not a header.",
            code=ListCode.LIST_UNREADABLE,
            remedy="Begin with the names of the columns.",
        )
    records = _records(stream, encoding, best[2], most)
    return named(next(records).cells), best[2], encoding, records


def _decodes(stream: BinaryIO, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    stream.seek(0)
    try:
        while block := stream.read(_BLOCK):
            decoder.decode(block)
        decoder.decode(b"", True)
    except UnicodeDecodeError:
        return False
    return True


def _records(stream: BinaryIO, encoding: str, delimiter: str, most: int) -> Iterator[Record]:
    """Records that are not blank, from the start."""
    csv.field_size_limit(max(most, csv.field_size_limit()))  # of the process; the lines are bounded
    stream.seek(0)
    text = io.TextIOWrapper(stream, encoding, newline="")
    try:
        lines = Lines(text, delimiter, most)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        while True:
            number = lines.read + 1
            lines.begin_record()
            try:
                cells = next(reader)
            except StopIteration:
                return
            except _TooLong:
                yield Record(number, (), _bad(LineCode.LINE_TOO_LONG, "The row is too long.", "Shorten it."))
            except csv.Error as error:
                bad = _bad(LineCode.MALFORMED, "The quotes of the row do not match.", "Double inner quotes.")
                bad.__cause__ = error
                yield Record(number, (), bad)
            else:
                if any(cells):
                    yield Record(number, cells)
    finally:
        if not stream.closed:  # closed first when the list is refused
            text.detach()


def named(cells: Sequence[str]) -> Sequence[str]:
    """The names of the columns; empty ones at the end are dropped, others get a number."""
    names = [cell.strip() for cell in cells]
    while names and not names[-1]:
        names.pop()
    return [name or f"column_{position}" for position, name in enumerate(names, 1)]


def _bad(code: LineCode, message: str, remedy: str) -> InputError:
    return InputError(message, code=code, remedy=remedy)


def _not_text() -> ListError:
    return ListError(
        "The list is not text in UTF-8, UTF-16 with a byte order mark, or GB18030.",
        code=ListCode.LIST_ENCODING,
        remedy="Save it in UTF-8.",
    )

"""Open a work list of any form and iterate over its rows.

A row that cannot be judged as it is written stays a row, with an error; a list that cannot be read is a
ListError.
"""

from __future__ import annotations

import io
import posixpath
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Final, Self, cast

from batch import jsonlines, pairs, sheets, tables
from batch.archive import Archive
from batch.columns import Found, find, recognised
from batch.rows import LOCAL, Columns, Limits, ListError, Row
from batch.tables import Record
from service.contract.causes import InputCode, LineCode, ListCode
from service.contract.errors import InputError

TEXTS: Final = (".csv", ".tsv", ".jsonl")
FORMS: Final = (*TEXTS, ".xlsx", ".zip")
_MAX_KEYS: Final = 1000  # different ones in all JSON lines
LINES: Final = 50  # of a text, for each row that is allowed; blank ones cost time, too
_BLOCK: Final = 1 << 20


class WorkList(Iterator[Row]):
    """The rows of a list, once, in its order. Close it after use.

    Attributes:
        form: ``csv``, ``tsv``, ``jsonl``, ``xlsx`` or ``pairs`` (pictures with a text file each).
        columns: the names of the columns in order; of JSON lines, all keys.
        delimiter: of a CSV or TSV; "," for other forms.
        encoding: of the text; ``utf-8-sig`` has a byte order mark.
        archive: the archive that holds the list and its pictures, if there is one.
        folder: the folder within the archive to which the pictures' names are relative; "" for its root.
    """

    def __init__(self, content: _Content, limits: Limits, stack: ExitStack, archive: Archive | None) -> None:
        self.form = content.form
        self.columns = content.columns
        self.delimiter = content.delimiter
        self.encoding = content.encoding
        self.archive = archive
        self.folder = ""
        self._rows = content.rows
        self._limits = limits
        self._stack = stack
        self._count = 0

    def __next__(self) -> Row:
        """Raises StopIteration at the end, and ListError where the list exceeds its limits or is damaged."""
        row = next(self._rows)
        self._count += 1
        if self._limits.rows is not None and self._count > self._limits.rows:
            raise _too_many_rows(self._limits.rows)
        return row

    def close(self) -> None:
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Content:
    form: str
    columns: Sequence[str]
    rows: Iterator[Row]
    delimiter: str = ","
    encoding: str = "utf-8"


def open_list(
    source: Path | BinaryIO, name: str, columns: Columns | None = None, limits: Limits = LOCAL
) -> WorkList:
    """Open a list: a file or folder by its path, or a seekable stream (which stays open).

    ``name`` is its file name, whose suffix tells the form: .csv, .tsv, .jsonl, .xlsx or .zip.
    Raises ListError.
    """
    columns = columns or Columns()
    with ExitStack() as stack:
        if isinstance(source, Path) and source.is_dir():
            content = _pairs(pairs.names_in(source), pairs.reader_of(source))
            return WorkList(content, limits, stack.pop_all(), None)
        stream = source if not isinstance(source, Path) else stack.enter_context(_opened(source))
        suffix = posixpath.splitext(name)[1].lower()
        if suffix != ".zip":
            content = _read(stream, suffix, columns, limits)
            stack.callback(_closing(content))
            return WorkList(content, limits, stack.pop_all(), None)
        archive = stack.enter_context(Archive(stream, limits))
        inner = archive.find_list()
        if inner is None:
            content = _pairs(archive.names, lambda one: archive.read(one, pairs.MAX_TEXT))
        else:
            content = _read(
                stack.enter_context(_member(archive, inner, limits)),
                posixpath.splitext(inner)[1].lower(),
                columns,
                limits,
            )
        stack.callback(_closing(content))
        found = WorkList(content, limits, stack.pop_all(), archive)
        found.folder = posixpath.dirname(inner or "")
        return found


def _opened(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise ListError(
            "There is no such list, or it cannot be read.",
            code=ListCode.LIST_MISSING,
            remedy="Check the path and its permissions.",
        ) from error


def _member(archive: Archive, name: str, limits: Limits) -> BinaryIO:
    """Inflate the list into memory, since it is read more than once. Raises ListError."""
    try:
        data = archive.read(name, limits.list_bytes or limits.bytes)
    except InputError as error:
        if error.code == InputCode.IMAGE_BYTES_TOO_LARGE:
            raise _too_large("The list in the zip has too many bytes.") from error
        raise ListError(
            "The list in the zip is damaged.", code=ListCode.LIST_UNREADABLE, remedy="Make the zip again."
        ) from error
    return io.BytesIO(data)


def _closing(content: _Content) -> Callable[[], None]:
    """End the iteration before the stream below it is closed."""
    return cast(Any, content.rows).close  # type: ignore[no-any-return]


def _read(stream: BinaryIO, suffix: str, columns: Columns, limits: Limits) -> _Content:
    """Raises ListError."""
    size = stream.seek(0, io.SEEK_END)
    if limits.list_bytes is not None and size > limits.list_bytes:
        raise _too_large(f"The list has {size} bytes; at most {limits.list_bytes} are allowed.")
    if not size:
        raise _empty()
    if suffix in TEXTS and limits.rows is not None and _lines(stream) > LINES * limits.rows:
        raise _too_large(f"The list has more than {LINES * limits.rows} lines.")
    if suffix == ".jsonl":
        return _of_lines(stream, columns, limits)
    if suffix == ".xlsx":
        records = sheets.records(stream, limits)
        header = next(records, None)
        if header is None:
            raise _empty()
        names = tables.named(header.cells)
        return _Content("xlsx", names, _rows(names, find(_distinct(names), columns), records, pad=True))
    if suffix not in (".csv", ".tsv"):
        raise ListError(
            "This is not a form of list that is read.",
            code=ListCode.LIST_FORM,
            remedy=f"Use one of {', '.join(FORMS)}, or a folder.",
        )
    names, delimiter, encoding, records = tables.open_table(
        stream,
        tables.DELIMITERS if suffix == ".csv" else ("\t",),
        limits.line_bytes,
        lambda names: recognised(names, columns),
    )
    rows = _rows(names, find(_distinct(names), columns), records)
    return _Content(suffix[1:], names, rows, delimiter, encoding)


def _pairs(names: Sequence[str], read: pairs.Read) -> _Content:
    if not pairs.has_pairs(names):
        raise ListError(
            "There is neither a list nor a picture with a text file of the same name.",
            code=ListCode.LIST_MISSING,
            remedy="Name the list itself, or add name.txt beside name.jpg.",
        )
    return _Content("pairs", pairs.COLUMNS, pairs.rows(names, read))


def _rows(
    names: Sequence[str], found: Found, records: Iterator[Record], *, pad: bool = False
) -> Iterator[Row]:
    """The rows of a table; with ``pad``, missing cells at the end are empty."""
    for record in records:
        cells = list(record.cells)
        while len(cells) > len(names) and not cells[-1]:
            cells.pop()
        error = record.error
        if error is None and len(cells) != len(names) and not (pad and len(cells) < len(names)):
            error = _split_error(len(cells), len(names))
        cells += [""] * (len(names) - len(cells))
        yield _row(record.number, dict(zip(names, cells, strict=False)), found, error)


def _row(number: int, fields: Mapping[str, Any], found: Found, error: InputError | None) -> Row:
    """Raises nothing: what is missing or of a wrong type becomes the row's error."""
    image, text, premise, row_id = (
        fields.get(name) if name is not None else None
        for name in (found.image, found.text, found.premise, found.id)
    )
    return Row(
        number,
        image.strip() if isinstance(image, str) else "",
        text if isinstance(text, str) else "",
        premise if isinstance(premise, str) and premise else None,
        None if row_id is None else str(row_id),
        fields,
        error or _problem(image, text, premise, row_id),
    )


def _problem(image: object, text: object, premise: object, row_id: object) -> InputError | None:
    """Why a row with these values cannot be judged."""
    if image is None or (isinstance(image, str) and not image.strip()):
        return InputError("The row names no picture.", code=InputCode.NO_IMAGE, remedy="Name its file.")
    if not isinstance(image, str):
        code = InputCode.NOT_AN_IMAGE
        return InputError("The picture is not a string.", code=code, remedy="Write the file's name.")
    for value in (text, premise):
        if value is not None and not isinstance(value, str):
            code = InputCode.NO_TEXT
            return InputError("A text is not a string.", code=code, remedy="Write a string.")
    if text is None or (isinstance(text, str) and not text.strip()):
        return InputError("The row has no text.", code=InputCode.NO_TEXT, remedy="Write a sentence.")
    try:
        jsonlines.check_id(row_id)
    except InputError as error:
        return error
    return None


def _lines(stream: BinaryIO) -> int:
    stream.seek(0)
    blocks = iter(lambda: stream.read(_BLOCK), b"")
    return sum(block.count(b"\n") + block.count(b"\r") for block in blocks)


def _of_lines(stream: BinaryIO, columns: Columns, limits: Limits) -> _Content:
    """Read the keys of all lines first, then the rows."""
    most = limits.line_bytes
    keys: dict[str, None] = {}
    for count, (_, fields, _) in enumerate(_objects(stream, most), 1):
        if limits.rows is not None and count > limits.rows:
            raise _too_many_rows(limits.rows)
        keys |= dict.fromkeys(fields)
        if len(keys) > _MAX_KEYS:
            raise _too_large(f"The JSON lines have more than {_MAX_KEYS} different keys.")
    names = list(keys)
    found = find(names, columns)
    rows = (_row(number, fields, found, error) for number, fields, error in _objects(stream, most))
    return _Content("jsonl", names, rows)


def _objects(stream: BinaryIO, most: int) -> Iterator[tuple[int, dict[str, Any], InputError | None]]:
    stream.seek(0)
    for number, line in jsonlines.numbered(stream, most):
        try:
            yield number, jsonlines.parse(line, most), None
        except InputError as error:
            yield number, {}, error


def _distinct(names: Sequence[str]) -> Sequence[str]:
    """Raises ListError for two columns of one name."""
    if len(set(names)) < len(names):
        raise ListError(
            "Two columns of the list have the same name.",
            code=ListCode.COLUMN_AMBIGUOUS,
            remedy="Rename one.",
            columns=names[:40],
        )
    return names


def _split_error(cells: int, names: int) -> InputError:
    few = cells < names
    return InputError(
        f"The row has {cells} columns, the header {names}.",
        code=LineCode.TOO_FEW_COLUMNS if few else LineCode.TOO_MANY_COLUMNS,
        remedy="Put cells that contain the delimiter into quotes.",
    )


def _too_many_rows(most: int) -> ListError:
    return _too_large(f"The list has more than {most} rows.")


def _too_large(message: str) -> ListError:
    return ListError(message, code=ListCode.LIST_TOO_LARGE, remedy="Split it into several.")


def _empty() -> ListError:
    return ListError("The list is empty.", code=ListCode.LIST_EMPTY, remedy="Add a header and rows.")

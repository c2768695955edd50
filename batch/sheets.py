"""Read the first sheet of an XLSX with openpyxl, an optional package: only values, within limits."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import Any, BinaryIO, Final

from batch.archive import check_parts
from batch.rows import Limits, ListError
from batch.tables import Record
from service.contract.causes import ListCode

MAX_CELLS: Final = 20_000_000  # empty ones within a row, and empty rows, included
MAX_EMPTY: Final = 100_000  # rows in succession, which a few bytes declare
#: Inflated, of all parts together; openpyxl holds the texts of a sheet, and each row, in memory.
MAX_BYTES: Final = 128 << 20
MAX_PARTS: Final = 10_000
#: The same for a served list, and the tags in it: openpyxl takes up to 350 bytes and 20 µs for each.
SERVED_BYTES: Final = 32 << 20
SERVED_TAGS: Final = 2_000_000
_OLD_EXCEL: Final = bytes.fromhex("d0cf11e0a1b11ae1")


def records(stream: BinaryIO, limits: Limits) -> Iterator[Record]:
    """Rows that are not blank. Raises ListError here and while iterating."""
    try:
        import openpyxl
        from openpyxl.xml import DEFUSEDXML
    except ImportError as error:
        raise _not_installed() from error
    if not DEFUSEDXML:
        raise _not_installed()
    stream.seek(0)
    if stream.read(len(_OLD_EXCEL)) == _OLD_EXCEL:
        raise ListError(
            "This is an old Excel file (.xls), or it has a password.",
            code=ListCode.LIST_FORM,
            remedy="Save it as .xlsx without a password, or as CSV.",
        )
    stream.seek(0)
    served = limits.rows is not None
    size = min(SERVED_BYTES if served else MAX_BYTES, limits.list_bytes or MAX_BYTES)
    check_parts(stream, Limits(members=MAX_PARTS, bytes=size), SERVED_TAGS if served else None)
    return _records(openpyxl, stream)


def _records(openpyxl: Any, stream: BinaryIO) -> Iterator[Record]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and validations that are not read
            book = openpyxl.load_workbook(stream, read_only=True, data_only=True, keep_links=False)
            with closing(book):
                sheet = book.worksheets[0]
                sheet.reset_dimensions()  # or a declared size is filled with empty cells
                yield from _rows(sheet.iter_rows(values_only=True))
    except (ListError, MemoryError):
        raise
    except Exception as error:  # openpyxl raises what its parsers raise
        raise ListError(
            "The sheet is damaged or not an XLSX.",
            code=ListCode.LIST_UNREADABLE,
            remedy="Save it again, or as CSV.",
        ) from error


def _rows(rows: Iterator[tuple[object, ...]]) -> Iterator[Record]:
    cells = empty = 0
    for number, values in enumerate(rows, 1):
        cells += max(1, len(values))
        empty = 0 if values else empty + 1
        if cells > MAX_CELLS or empty > MAX_EMPTY:
            raise ListError(
                "The sheet has too many cells or empty rows.",
                code=ListCode.LIST_TOO_LARGE,
                remedy="Delete empty rows, or save it as CSV.",
            )
        filled = _text(values)
        if filled:
            yield Record(number, filled)


def _text(values: Sequence[object]) -> list[str]:
    """The cells as text, without empty ones at the end."""
    cells = ["" if value is None else _cell(value) for value in values]
    while cells and not cells[-1]:
        cells.pop()
    return cells


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _not_installed() -> ListError:
    return ListError(
        "XLSX needs two optional packages.",
        code=ListCode.XLSX_NOT_INSTALLED,
        remedy="Install them: pip install -r requirements-xlsx.txt. Or save the list as CSV.",
    )

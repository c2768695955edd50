"""A row of a work list, and what bounds and describes a list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from service.contract.causes import ListCode
from service.contract.errors import InputError


@dataclass(frozen=True, slots=True)
class Row:
    """One pair to judge.

    Attributes:
        number: identifies the row in its list: the first line of the record (the header is line 1), the row
            of the sheet, or the position in a folder or archive without a list.
        image: as written: a path, a member's name or a ``data:`` URL; "" if missing.
        fields: the list's own columns as written, in order; strings, or the values of a JSON line.
        error: why the row cannot be judged as it is written.
    """

    number: int
    image: str
    text: str
    premise: str | None
    id: str | None
    fields: Mapping[str, Any]
    error: InputError | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """The names of the columns to use; None finds one by convention."""

    image: str | None = None
    text: str | None = None
    premise: str | None = None
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of a list and of the archive around it; the defaults are for local runs.

    Attributes:
        rows: rows of the list; None for any number.
        list_bytes: bytes of the list itself, inflated; None for any number.
        line_bytes: bytes of one record; a picture as a ``data:`` URL has to fit.
        members: members of an archive.
        bytes: inflated bytes of all members of an archive together.
    """

    rows: int | None = None
    list_bytes: int | None = None
    line_bytes: int = 32 << 20
    members: int = 1_000_000
    bytes: int = 1 << 42


LOCAL: Final = Limits()


class ListError(InputError):
    """The list as a whole cannot be read; the code is a ListCode. ``columns`` are those that it has."""

    def __init__(self, message: str, *, code: ListCode, remedy: str, columns: Sequence[str] = ()):
        super().__init__(message, code=code, remedy=remedy)
        self.columns = tuple(columns)

"""Open a work list of any form and iterate over its rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from batch.archive import Archive
from batch.rows import LOCAL, Columns, Limits, Row


class WorkList(Iterator[Row]):
    """The rows of a list, once, in its order. Close it after use.

    Attributes:
        form: ``csv``, ``tsv``, ``jsonl``, ``xlsx`` or ``pairs`` (pictures with a text file each).
        columns: the names of the columns in order; of JSON lines, the keys of the first line.
        delimiter: of a CSV or TSV; "," for other forms.
        encoding: of the text; ``utf-8-sig`` has a byte order mark.
        archive: the archive that holds the list and its pictures, if there is one.
        folder: the folder within the archive to which the pictures' names are relative; "" for its root.
    """

    form: str
    columns: Sequence[str]
    delimiter: str
    encoding: str
    archive: Archive | None
    folder: str

    def __next__(self) -> Row:
        """Raises StopIteration at the end, and ListError where the list exceeds its limits or is damaged."""
        raise StopIteration

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_list(
    source: Path | BinaryIO, name: str, columns: Columns | None = None, limits: Limits = LOCAL
) -> WorkList:
    """Open a list: a file or folder by its path, or a seekable stream (which stays open).

    ``name`` is its file name, whose suffix tells the form: .csv, .tsv, .jsonl, .xlsx or .zip.
    Raises ListError.
    """
    raise NotImplementedError

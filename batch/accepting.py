"""From an uploaded file to the rows of a served batch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Final

from batch.folder import Unusable, room
from batch.limits import BATCH_BYTES, ROW_BYTES, ROWS, TEXT, THUMBNAIL_BYTES
from batch.lists import WorkList, open_list
from batch.pictures import DataUrls
from batch.records import Picture
from batch.rows import Columns, Limits, ListError, Row
from batch.store import FAILED, WAITING, Store
from service.contract.causes import InputCode, ListCode
from service.contract.errors import InputError

CHUNK: Final = 200  # rows written in one transaction,
CHUNK_BYTES: Final = 8 << 20  # or fewer, of so many bytes
DATA: Final = "data:"


@dataclass(frozen=True, slots=True)
class Accepted:
    """What is known of a list after its last row. ``size`` is what is stored of it in bytes; ``archive``
    whether its zip must be kept."""

    form: str
    format: dict[str, Any]
    size: int
    archive: bool


def limits(max_bytes: int) -> Limits:
    """The limits of a served list whose pictures may have ``max_bytes``."""
    return Limits(
        rows=ROWS,
        list_bytes=BATCH_BYTES,
        line_bytes=max_bytes * 4 // 3 + (1 << 20),
        members=2 * ROWS + 1000,
        bytes=4 * BATCH_BYTES,
    )


def add_rows(
    store: Store, number: int, batch_id: str, part: Path, name: str, columns: Columns, max_bytes: int
) -> Accepted:
    """Add all rows of the uploaded file ``part`` to a batch that has begun. The suffix of ``name`` tells the
    form. Raises ListError, Unusable, OSError."""
    with (
        open_list(part, name, columns, limits(max_bytes)) as opened,
        _created(store.pictures_of(batch_id)) as file,
    ):
        adding = _Adding(opened, file, max_bytes)
        while chunk := adding.rows(CHUNK):
            if not room(store.folder):
                raise Unusable("disk_full")
            store.add(number, chunk, adding.pictures())
        if not adding.count:
            raise ListError("The list has no rows.", code=ListCode.LIST_EMPTY, remedy="Add rows.")
        file.flush()
        os.fsync(file.fileno())
        format = {
            "columns": [_storable(name) for name in opened.columns],
            "delimiter": opened.delimiter,
            "archive": opened.archive is not None,
            "folder": opened.folder,
        }
        return Accepted(opened.form, format, adding.stored, opened.archive is not None)


class _Adding:
    """Turns the rows of a list into those of the store: ``count`` of them so far, of ``stored`` bytes."""

    def __init__(self, opened: WorkList, file: IO[bytes], max_bytes: int) -> None:
        self.stored = 0
        self._list = opened
        self._file = file
        self._urls = DataUrls(max_bytes)
        self.count = 0
        self._numbers: dict[bytes, int] = {}  # of pictures, by the digest of their image
        self._units: dict[tuple[int, str | None], int] = {}
        self._new: list[Picture] = []
        self._errors: dict[int, InputError] = {}  # of pictures that cannot be read

    def rows(self, most: int) -> list[tuple[object, ...]]:
        """Return the next rows, none after the last. Raises ListError."""
        found: list[tuple[object, ...]] = []
        before = self.stored
        for row in self._list:
            found.append(self._row(row))
            if len(found) >= most or self.stored - before > CHUNK_BYTES:
                break
        if self.stored > 2 * BATCH_BYTES:
            raise ListError("The list is too large.", code=ListCode.LIST_TOO_LARGE, remedy="Split it.")
        return found

    def pictures(self) -> list[Picture]:
        """Return the pictures of the rows that ``rows`` has returned."""
        new, self._new = self._new, []
        return new

    def _row(self, row: Row) -> tuple[object, ...]:
        self.count += 1
        picture = self._picture(row)
        error = row.error or _too_long(row) or self._errors.get(picture)
        unit = self._units.setdefault((picture, row.premise), len(self._units))
        shown = _shown(row.image)
        fields = {key: shown if _is(row.image, value) else value for key, value in row.fields.items()}
        text = _storable(json.dumps(fields, ensure_ascii=False))
        self.stored += ROW_BYTES + len(text) + len(row.text)
        return (
            *(self.count, picture, unit, row.number, row.id and _storable(row.id)),
            *(_storable(row.text), row.premise and _storable(row.premise), text),
            *(WAITING if error is None else FAILED, error and str(error.code), error and error.sentence),
        )

    def _picture(self, row: Row) -> int:
        """Return the number of the row's picture; keep one that the list holds itself."""
        key = hashlib.sha256(row.image.encode("utf-8", "surrogatepass")).digest()
        if key in self._numbers:
            return self._numbers[key]
        number = self._numbers[key] = len(self._numbers)
        offset = length = None
        if self._list.archive is None or row.image[:5].lower() == DATA:
            try:
                data = self._urls.open(row.image)
            except InputError as error:
                self._errors[number] = error
            else:
                offset, length = self._file.tell(), len(data)
                self._file.write(data)
                self.stored += length
        self.stored += THUMBNAIL_BYTES
        self._new.append(Picture(number, _storable(_shown(row.image)), offset, length))
        return number


def _too_long(row: Row) -> InputError | None:
    """Refuse a text that no setting allows, since many rows are read at once to be judged."""
    longest = max(len(row.text), len(row.premise or ""))
    if longest <= TEXT:
        return None
    return InputError(
        f"A text has {longest} characters.",
        code=InputCode.TEXT_TOO_LONG,
        remedy="Shorten it to one sentence.",
    )


def _is(image: str, value: object) -> bool:
    """Whether the value of a column is the row's picture, which has no spaces around it."""
    return isinstance(value, str) and value.strip() == image


def _shown(image: str) -> str:
    """Return a picture's name; of a data URL only its beginning."""
    return image.partition(",")[0][:100] if image[:5].lower() == DATA else image


def _storable(text: str) -> str:
    """Return ``text`` without lone surrogates, which SQLite does not store."""
    return text.encode("utf-8", "ignore").decode()


@contextmanager
def _created(path: Path) -> Iterator[IO[bytes]]:
    """Create a private file for the context; delete it if that fails, or if it stays empty."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        try:
            yield file
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        if not file.tell():
            path.unlink(missing_ok=True)

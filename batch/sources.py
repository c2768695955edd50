"""The pictures of served batches: members of their archives, or bytes kept beside the store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Final

from batch.accepting import limits
from batch.archive import Archive
from batch.pictures import ZipPictures
from batch.records import Batch, Picture
from batch.rows import ListError
from batch.store import Store
from service.contract.causes import InputCode
from service.contract.errors import InputError

OPEN: Final = 8  # archives kept open


class Sources:
    """Opens pictures, whose files may have ``max_bytes``. Thread-safe."""

    def __init__(self, store: Store, max_bytes: int) -> None:
        self._store = store
        self._max_bytes = max_bytes
        self._lock = threading.Lock()  # guards the next line
        self._open: OrderedDict[str, tuple[Archive, ZipPictures]] = OrderedDict()  # least recently used first

    def open(self, batch: Batch, picture: Picture) -> bytes:
        """Return a picture file. Raises InputError."""
        try:
            try:
                return self._read(batch, picture)
            except ValueError:  # closed meanwhile, to open another
                return self._read(batch, picture)
        except (OSError, ValueError, ListError) as error:
            raise _gone() from error

    def _read(self, batch: Batch, picture: Picture) -> bytes:
        """Raises InputError, OSError, ValueError, ListError."""
        if picture.offset is not None and picture.length is not None:
            with self._store.pictures_of(batch.id).open("rb") as file:
                file.seek(picture.offset)
                return file.read(picture.length)
        if batch.archive:
            return self._pictures(batch).open(picture.image)
        raise _gone()

    def close(self, batch_id: str | None = None) -> None:
        """Close the archive of one batch, or all."""
        with self._lock:
            for key in [batch_id] if batch_id is not None else list(self._open):
                if (opened := self._open.pop(key, None)) is not None:
                    opened[0].close()

    def _pictures(self, batch: Batch) -> ZipPictures:
        with self._lock:
            opened = self._open.pop(batch.id, None)
            if opened is None:
                archive = Archive(self._store.archive_of(batch.id), limits(self._max_bytes))
                opened = archive, ZipPictures(archive, self._max_bytes, batch.folder)
            self._open[batch.id] = opened
            if len(self._open) > OPEN:
                self._open.popitem(last=False)[1][0].close()
        return opened[1]


def _gone() -> InputError:
    return InputError(
        "The picture is not there any more.", code=InputCode.UPLOAD_GONE, remedy="Upload the batch again."
    )

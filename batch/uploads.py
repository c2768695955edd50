"""Uploads of served batches: received into files within limits of bytes and number."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

from batch.errors import BatchRefused, no_room
from batch.folder import FULL, room
from batch.limits import BATCH_BYTES, CALLER_BATCHES, CALLER_BYTES, TOTAL_BYTES
from service.contract.causes import ApiCode, BatchCode

_CHECKED: Final = 1 << 20  # bytes between two looks at the free space


class Uploads:
    """The uploads in progress. Safe to call from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the next line
        self._incoming: list[Incoming] = []

    def begin(
        self, path: Path, caller: str, size: int, *, held: Sequence[tuple[str, int]], active: Sequence[str]
    ) -> Incoming:
        """Begin an upload into ``path`` that declares ``size`` bytes, 0 if unknown.

        ``held`` are caller and bytes of the batches that are kept, ``active`` the callers of those not ended.
        Raises BatchRefused and OSError."""
        with self._lock:
            mine = [one for one in self._incoming if one.caller == caller]
            if len(mine) + active.count(caller) >= CALLER_BATCHES:
                raise _limit(f"At most {CALLER_BATCHES} batches at once are allowed.", CALLER_BATCHES)
            incoming = Incoming(self, path, caller, sum(bytes for _, bytes in held))
            if size > BATCH_BYTES:
                raise _too_large()
            if sum(bytes for name, bytes in held if name == caller) + size > CALLER_BYTES:
                raise _limit(f"Your batches have {CALLER_BYTES} bytes already.", CALLER_BYTES)
            incoming.check(size, sum(one.size for one in self._incoming))
            incoming.open()
            self._incoming.append(incoming)
        return incoming

    def total(self) -> int:
        with self._lock:
            return sum(one.size for one in self._incoming)

    def end(self, incoming: Incoming) -> None:
        with self._lock:
            if incoming in self._incoming:
                self._incoming.remove(incoming)


class Incoming:
    """A file being received. Call ``discard`` at the end. ``before`` is how many bytes all batches had,
    ``key`` the digest of the caller and its idempotency key, if it sent one."""

    def __init__(self, uploads: Uploads, path: Path, caller: str, before: int) -> None:
        self.path = path
        self.caller = caller
        self.size = 0
        self.key: bytes | None = None
        self._uploads = uploads
        self._before = before
        self._unchecked = 0
        self._digest = hashlib.sha256()
        self._file: IO[bytes] | None = None

    def open(self) -> None:
        descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._file = os.fdopen(descriptor, "wb")

    def check(self, more: int, uploading: int) -> None:
        """Raise BatchRefused if there is no room for ``more`` bytes."""
        if self._before + uploading + more > TOTAL_BYTES or room(self.path.parent) < more:
            raise no_room()

    def write(self, data: bytes) -> None:
        """Raises BatchRefused and OSError."""
        assert self._file is not None
        self.size += len(data)
        if self.size > BATCH_BYTES:
            raise _too_large()
        self._unchecked += len(data)
        if self._unchecked >= _CHECKED:
            self._unchecked = 0
            self.check(_CHECKED, self._uploads.total())
        self._digest.update(data)
        try:
            self._file.write(data)
        except OSError as error:
            raise no_room() if error.errno in FULL else error from error

    def finish(self) -> bytes:
        """Bring the file to the disk and return its SHA-256. Raises BatchRefused and OSError."""
        assert self._file is not None
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        except OSError as error:
            raise no_room() if error.errno in FULL else error from error
        return self._digest.digest()

    def discard(self) -> None:
        """End the upload and delete the file if it is still there."""
        if self._file is not None:
            with suppress(OSError):  # on a full disk, closing flushes and fails again
                self._file.close()
        self.path.unlink(missing_ok=True)
        self._uploads.end(self)


def _too_large() -> BatchRefused:
    return BatchRefused(
        f"A batch may have at most {BATCH_BYTES} bytes.", code=ApiCode.TOO_LARGE, limit=BATCH_BYTES
    )


def _limit(message: str, limit: int) -> BatchRefused:
    return BatchRefused(message, code=BatchCode.BATCH_LIMIT, limit=limit)

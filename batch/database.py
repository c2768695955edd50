"""The SQLite file of served batches: one writer beside readers, mapped errors, damaged files moved aside."""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from batch.folder import Unusable, unusable

NAME: Final = "batches.sqlite"
ASIDE: Final = "damaged.sqlite"  # the last one that could not be read
APPLICATION: Final = 0x4F464142  # "OFAB"
VERSION: Final = 1
WAIT_SECONDS: Final = 10.0  # for another thread's transaction, or another process's lock
CLOSE_SECONDS: Final = 0.2
_JOURNAL_BYTES: Final = 16 << 20
_FILES: Final = ("", "-wal", "-shm")
log = logging.getLogger(__name__)

SCHEMA: Final = """
CREATE TABLE batches (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, owner TEXT NOT NULL, caller TEXT NOT NULL,
    state TEXT NOT NULL, code TEXT, form TEXT NOT NULL, format TEXT NOT NULL, total INTEGER NOT NULL,
    done INTEGER NOT NULL, failed INTEGER NOT NULL, bytes INTEGER NOT NULL,
    created REAL NOT NULL, expires REAL NOT NULL, idempotency BLOB UNIQUE, digest BLOB);
CREATE TABLE rows (
    batch INTEGER NOT NULL, position INTEGER NOT NULL, picture INTEGER NOT NULL, unit INTEGER NOT NULL,
    line INTEGER NOT NULL, id TEXT, text TEXT NOT NULL, premise TEXT, fields TEXT NOT NULL,
    state INTEGER NOT NULL, crashes INTEGER NOT NULL DEFAULT 0, timeouts INTEGER NOT NULL DEFAULT 0,
    answer TEXT, code TEXT, error TEXT, PRIMARY KEY (batch, position)) WITHOUT ROWID;
CREATE INDEX waiting ON rows (batch, unit, position) WHERE state = 0;
CREATE TABLE pictures (
    batch INTEGER NOT NULL, number INTEGER NOT NULL, image TEXT NOT NULL, offset INTEGER, length INTEGER,
    thumbnail BLOB, PRIMARY KEY (batch, number)) WITHOUT ROWID;
"""


class Database:
    """The connections to the file in ``folder``. Safe to call from any thread."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / NAME
        self._writer = self._reader = None
        self._opened: tuple[int, int] | None = None  # device and inode
        self._write_lock = threading.Lock()
        self._read_lock = threading.Lock()

    _writer: sqlite3.Connection | None
    _reader: sqlite3.Connection | None

    def open(self) -> None:
        """Open the file, which is created if it is missing, and moved aside if it is not ours or damaged.
        Raises Unusable."""
        try:
            self._open()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise mapped(error) from error
            self._close()
            self._move_aside(error)
            try:
                self._open()
            except sqlite3.DatabaseError as again:
                self._close()
                raise mapped(again) from again
        except OSError as error:
            raise unusable(error) from error

    def close(self) -> None:
        """Close it, unless a transaction runs longer than CLOSE_SECONDS."""
        locks = (self._write_lock, self._read_lock)
        held = [lock for lock in locks if lock.acquire(timeout=CLOSE_SECONDS)]
        try:
            if len(held) == len(locks):
                self._close()
        finally:
            for lock in held:
                lock.release()

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """Run a transaction, durable at the end of the context. Raises Unusable; then it has no effect."""
        with _held(self._write_lock):
            connection = _opened(self._writer)
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    yield connection
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        with suppress(sqlite3.Error):
                            connection.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise mapped(error) from error

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """Read a consistent state. Raises Unusable."""
        with _held(self._read_lock):
            connection = _opened(self._reader)
            try:
                connection.execute("BEGIN")
                try:
                    yield connection
                finally:
                    if connection.in_transaction:
                        connection.execute("COMMIT")
            except sqlite3.Error as error:
                raise mapped(error) from error

    @property
    def lost(self) -> bool:
        """Whether the open file was deleted or replaced: SQLite goes on in it, and all of that is lost."""
        return self._writer is not None and self._identity() != self._opened

    def shrink(self) -> None:
        """Return unused pages to the file system. Raises Unusable."""
        with _held(self._write_lock):
            try:
                _opened(self._writer).execute("PRAGMA incremental_vacuum").fetchall()
            except sqlite3.Error as error:
                raise mapped(error) from error

    def _open(self) -> None:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
        self._opened = self._identity()
        self._path.chmod(0o600)  # SQLite gives its other files the same mode
        self._writer = connection = self._connect()
        new = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
        if new:
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        if connection.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise Unusable("wal")
        if new:
            connection.executescript(
                f"BEGIN IMMEDIATE; {SCHEMA} PRAGMA application_id = {APPLICATION}; "
                f"PRAGMA user_version = {VERSION}; COMMIT;"
            )
        marks = [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        ]
        if marks != [APPLICATION, VERSION]:
            raise _Foreign(marks[1] if marks[0] == APPLICATION else "foreign")
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise _Foreign("quick_check")
        self._reader = self._connect()

    def _identity(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_dev, status.st_ino

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous = FULL")  # what is reported survives a power cut, too
        connection.execute(f"PRAGMA journal_size_limit = {_JOURNAL_BYTES}")
        return connection

    def _close(self) -> None:
        for connection in (self._reader, self._writer):  # the writer last: it empties the log
            if connection is not None:
                with suppress(sqlite3.Error):
                    connection.close()
        self._reader = self._writer = None

    def _move_aside(self, error: sqlite3.Error) -> None:
        """Keep the file under another name, in place of an earlier one. Raises Unusable."""
        reason = str(error) if isinstance(error, _Foreign) else _name(error)
        log.error("BATCHES_MOVED_ASIDE | REASON=%s | FILE=%s", reason, ASIDE)
        try:
            for suffix in _FILES:
                there = self._path.with_name(ASIDE + suffix)
                there.unlink(missing_ok=True)
                with suppress(FileNotFoundError):
                    self._path.with_name(NAME + suffix).replace(there)
        except OSError as failure:
            raise unusable(failure) from failure


class _Foreign(sqlite3.DatabaseError):
    """A database of another program or version, or with a damaged structure."""


def mapped(error: sqlite3.Error) -> Unusable:
    """Return ``error`` as an Unusable. An I/O error counts as a full disk: both may pass."""
    name = _name(error)
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return Unusable("disk_full", name)
    return Unusable("damaged" if _is_damage(error) else "error", name)


def _is_damage(error: sqlite3.Error) -> bool:
    return isinstance(error, _Foreign) or _name(error).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def _name(error: sqlite3.Error) -> str:
    return str(getattr(error, "sqlite_errorname", type(error).__name__))


@contextmanager
def _held(lock: threading.Lock) -> Iterator[None]:
    if not lock.acquire(timeout=WAIT_SECONDS):
        raise Unusable("error", "busy")
    try:
        yield
    finally:
        lock.release()


def _opened(connection: sqlite3.Connection | None) -> sqlite3.Connection:
    if connection is None:
        raise Unusable("error", "closed")
    return connection

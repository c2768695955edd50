"""The uploaded pictures: a private folder with a budget, emptied by last use, gone when the page ends.

Each file counts towards its caller's share and towards the total. Where there is no room, the files that were
not used for the longest time are deleted first, never one that a request in flight still reads. The folder
belongs to one process: it holds a lock in it, so that instances that share a temporary folder, whatever
address or container they are in, never remove each other's files.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from page.shares import NoneLeft, Shares, ShareUsed

AGE: Final = 900.0  # seconds after its last use that a file is deleted …
SWEEP: Final = 30.0  # … when it is looked for
FOLDER: Final = "ofa-page-"  # how a folder's name begins; the port follows
LOCK: Final = ".lock"

SHARES: Final = 4  # as many callers fill the total budget
SHARE_BYTES: Final = 512 << 20  # one caller's files; more only where a single file may be larger
LEAST_BYTES: Final = 64 << 10  # what a file counts at least: small ones cost entries of the file system
RESERVE: Final = 256 << 20  # of the file system that is left free …
RESERVE_SHARE: Final = 0.05  # … or this much of a small one

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_SUFFIX: Final = re.compile(r"\.[A-Za-z0-9]{1,8}")


@dataclass(eq=False)
class _File:
    """What is known of one upload; its path is its key."""

    caller: str
    used: float  # when it was used last, by the monotonic clock
    size: int = 0  # bytes it counts
    readers: int = 0
    complete: bool = False

    @property
    def idle(self) -> bool:
        """Whether it may be deleted."""
        return self.complete and not self.readers


class Uploads:
    """The folder of the page on ``port``, and what is in it. ``largest`` is the most bytes of one upload.
    Use after the port is held. Safe to call from any thread."""

    def __init__(self, port: int, *, largest: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._prefix = f"{FOLDER}{port}-"
        self._clock = clock
        share = max(SHARE_BYTES, largest)
        self._shares = Shares(SHARES * share, share)
        self._lock = threading.Lock()  # guards _files and what is in them
        self._files: OrderedDict[Path, _File] = OrderedDict()  # the least recently used first
        self._kept: dict[Path, Path] = {}  # our own pictures, by where they were copied from
        _remove_abandoned(self._prefix)
        self.folder, self._held = _make(self._prefix)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page-uploads", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End the thread and remove the folder with all that is in it."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._held)

    # ---- writing -------------------------------------------------------------------------------------------

    def create(self, caller: str, name: str = "") -> Incoming:
        """A file to write an upload to; of ``name`` only the ending is kept.

        Raises NoneLeft and ShareUsed."""
        suffix = Path(name).suffix
        with _full_is_none_left():
            self._ensure_folder()
            folder = self.folder / secrets.token_hex(16)
            folder.mkdir(0o700)
            path = folder / f"picture{suffix if _SUFFIX.fullmatch(suffix) else ''}"
            incoming = Incoming(self, path, caller)
            with self._lock:
                self._files[path] = _File(caller, self._clock())
            try:
                self.grow(path, caller, LEAST_BYTES)
                incoming.open()
            except BaseException:
                incoming.discard()
                raise
        return incoming

    def grow(self, path: Path, caller: str, amount: int) -> None:
        """Count ``amount`` bytes more for a file that is being written, and delete others to make room.

        Raises NoneLeft and ShareUsed."""
        while True:
            try:
                self._check_disk(amount)
                self._shares.take(caller, amount)
                break
            except ShareUsed:
                if not self._delete_oldest(caller):
                    raise
            except NoneLeft:
                if not self._delete_oldest():
                    raise
        with self._lock:
            self._files[path].size += amount

    def complete(self, path: Path) -> None:
        """The file is whole: it may be asked about, and deleted."""
        with self._lock:
            self._files[path].complete = True
            self._touch(path)

    def delete(self, path: Path) -> None:
        """Delete a file and give back what it counted."""
        with self._lock:
            file = self._files.pop(path, None)
        if file is not None:
            self._remove(path, file)

    def _check_disk(self, amount: int) -> None:
        """Raises NoneLeft when the file system would have too little left for everything else."""
        disk = os.statvfs(self.folder)
        reserve = min(RESERVE, int(disk.f_blocks * disk.f_frsize * RESERVE_SHARE))
        if disk.f_bavail * disk.f_frsize < amount + reserve:
            raise NoneLeft

    def _delete_oldest(self, caller: str | None = None) -> bool:
        """Delete the file that was not used for longest, of ``caller`` or of all; False if there is none."""
        with self._lock:
            for path, file in self._files.items():
                if file.idle and caller in (None, file.caller):
                    del self._files[path]
                    break
            else:
                return False
        self._remove(path, file)
        return True

    def _remove(self, path: Path, file: _File) -> None:
        shutil.rmtree(path.parent, ignore_errors=True)
        self._shares.give(file.caller, file.size)

    # ---- reading -------------------------------------------------------------------------------------------

    def within(self, path: str | Path) -> bool:
        """Whether a path leads into the folder, whatever is there."""
        return self._resolved(path) is not None

    def find(self, path: str | Path) -> Path | None:
        """The file that a caller's ``path`` names, which counts as its use; None if there is none."""
        found = self._resolved(path)
        if found is None:
            return None
        with self._lock:
            known = (found in self._files and self._files[found].complete) or found in self._kept.values()
            if found in self._files:
                self._touch(found)
        return found if known and found.is_file() else None

    @contextmanager
    def in_use(self, path: Path | None) -> Iterator[None]:
        """Keep the file from being deleted meanwhile; its use ends with the context."""
        self._add_reader(path, 1)
        try:
            yield
        finally:
            self._add_reader(path, -1)

    def keep(self, picture: Path) -> Path:
        """A copy of one of our own pictures, for as long as the page runs."""
        copy = self._kept.get(picture)
        if copy is None or not copy.is_file():
            self._ensure_folder()
            folder = self.folder / secrets.token_hex(16)
            folder.mkdir(0o700)
            copy = Path(shutil.copyfile(picture, folder / picture.name))
            with self._lock:
                self._kept[picture] = copy
        return copy

    def _resolved(self, path: str | Path) -> Path | None:
        """The path without its detours, if it leads into the folder."""
        try:
            found = Path(path).resolve()
            return found if found.is_relative_to(self.folder) else None
        except (OSError, ValueError, RuntimeError):  # a name too long, a null byte, a loop of links
            return None

    def _add_reader(self, path: Path | None, number: int) -> None:
        with self._lock:
            if path is not None and path in self._files:
                self._files[path].readers += number
                self._touch(path)

    def _touch(self, path: Path) -> None:
        """Called with the lock held."""
        self._files[path].used = self._clock()
        self._files.move_to_end(path)

    # ---- the folder ----------------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Delete what was not used for AGE seconds."""
        now = self._clock()
        with self._lock:
            old = {path: file for path, file in self._files.items() if file.idle and now - file.used >= AGE}
            for path in old:
                del self._files[path]
        for path, file in old.items():
            self._remove(path, file)

    def _run(self) -> None:
        while not self._ended.wait(SWEEP):
            self.sweep()

    def _ensure_folder(self) -> None:
        """Make the folder again, private, if a cleaner of temporary files has removed it. Raises OSError."""
        with self._lock:
            try:
                found = self.folder.lstat()
            except FileNotFoundError:
                _, lock = _make(self._prefix, self.folder)
                os.close(self._held)
                self._held = lock
            else:
                if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) != 0o700:
                    raise PermissionError(errno.EPERM, "another user made a folder of our name")


class Incoming:
    """An upload that is being written. ``finish`` or ``discard`` ends it."""

    def __init__(self, uploads: Uploads, path: Path, caller: str) -> None:
        self._uploads = uploads
        self._path = path
        self._caller = caller
        self._file: IO[bytes] | None = None
        self._left = LEAST_BYTES  # counted already and not written yet

    def open(self) -> None:
        self._file = self._path.open("xb")

    def write(self, data: bytes) -> None:
        """Raises NoneLeft and ShareUsed."""
        assert self._file is not None
        with _full_is_none_left():
            if len(data) > self._left:
                self._uploads.grow(self._path, self._caller, len(data) - self._left)
            self._left = max(0, self._left - len(data))
            self._file.write(data)

    def finish(self) -> Path:
        """The whole file's path. Raises NoneLeft."""
        assert self._file is not None
        with _full_is_none_left():
            self._file.close()
        self._uploads.complete(self._path)
        return self._path

    def discard(self) -> None:
        """Leave nothing of it."""
        if self._file is not None:
            with suppress(OSError):  # it still holds what did not fit
                self._file.close()
        self._uploads.delete(self._path)


@contextmanager
def _full_is_none_left() -> Iterator[None]:
    """A full disk is no error of ours: NoneLeft."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoneLeft from error
        raise


def _make(prefix: str, path: Path | None = None) -> tuple[Path, int]:
    """A private folder, at ``path`` if given, and a descriptor that holds its lock. It gets its name when it
    is locked, so that nobody takes it for an abandoned one. Raises OSError."""
    made = Path(tempfile.mkdtemp(prefix=f".{prefix}")).resolve()
    lock = os.open(made / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):  # a file system without locks: then nobody can take it from us either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = path or made.with_name(made.name.removeprefix("."))
        made.rename(folder)
    except BaseException:
        os.close(lock)
        shutil.rmtree(made, ignore_errors=True)
        raise
    return folder, lock


def _remove_abandoned(prefix: str) -> None:
    """Remove what an earlier process on this port left when it was killed."""
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):
            if left.is_dir() and not left.is_symlink() and left.stat().st_uid == os.getuid() and _free(left):
                shutil.rmtree(left, ignore_errors=True)


def _free(folder: Path) -> bool:
    """Whether no process holds the folder. Raises OSError when that cannot be told."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True  # of a version that did not lock, and its port is ours
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)

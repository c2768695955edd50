"""The store of uploaded pictures: a private folder with quotas, least-recently-used eviction and expiry.

Each file counts towards its caller's quota and towards the total. When either is used up, the least recently
used files are deleted, never one that a request still reads. The process holds a lock in its folder, so that
instances that share a temporary folder never remove each other's files, not even across containers.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from service.http.quota import NoCapacity, Quota, QuotaExceeded

AGE: Final = 900.0  # seconds from a file's last use to its deletion
SWEEP: Final = 30.0  # seconds between two sweeps
FOLDER: Final = "ofa-page-"  # the folder's prefix; the port follows
LOCK: Final = ".lock"

FULL_QUOTAS: Final = 4  # the total, in quotas of one caller
CALLER_BYTES: Final = 512 << 20  # the quota of one caller; more only where a single file may be larger
LEAST_BYTES: Final = 64 << 10  # the least that a file counts: small ones cost inodes
RESERVE: Final = 256 << 20  # bytes of the file system that stay free,
RESERVE_FRACTION: Final = 0.05  # or this fraction of a small one

_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
_SUFFIX: Final = re.compile(r"\.[A-Za-z0-9]{1,8}")


@dataclass(eq=False)
class _File:
    """One upload; its path is its key."""

    caller: str
    used: float  # monotonic time of the last use
    size: int = 0  # bytes counted towards the quota
    readers: int = 0
    complete: bool = False

    @property
    def idle(self) -> bool:
        """Whether it may be deleted."""
        return self.complete and not self.readers


class Uploads:
    """The uploads of the page on ``port``; ``largest`` is the size limit of one upload in bytes.

    Create after binding the port: folders of earlier processes on it are removed. Thread-safe.
    """

    def __init__(self, port: int, *, largest: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        self._prefix = f"{FOLDER}{port}-"
        self._clock = clock
        per_caller = max(CALLER_BYTES, largest)
        self._quota = Quota(FULL_QUOTAS * per_caller, per_caller)
        self._lock = threading.Lock()  # guards the two below
        self._files: OrderedDict[Path, _File] = OrderedDict()  # least recently used first
        self._kept: dict[Path, Path] = {}  # copies of example pictures, by original
        _remove_abandoned(self._prefix)
        self.folder, self._folder_lock = _make(self._prefix)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page-uploads", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread and remove the folder."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        shutil.rmtree(self.folder, ignore_errors=True)
        os.close(self._folder_lock)

    # ---- writing -------------------------------------------------------------------------------------------

    def create(self, caller: str, name: str = "") -> Incoming:
        """Return a new upload with the suffix of ``name``. Raises NoCapacity and QuotaExceeded."""
        suffix = Path(name).suffix
        with _full_disk_is_no_capacity():
            path = self._new_folder() / f"picture{suffix if _SUFFIX.fullmatch(suffix) else ''}"
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
        """Count ``amount`` more bytes for an incomplete file; evict others to make room.

        Raises NoCapacity and QuotaExceeded."""
        while True:
            try:
                self._check_disk(amount)
                self._quota.acquire(caller, amount)
                break
            except QuotaExceeded:
                if not self._delete_oldest(caller):
                    raise
            except NoCapacity:
                if not self._delete_oldest():
                    raise
        with self._lock:
            self._files[path].size += amount

    def complete(self, path: Path) -> None:
        """Mark the file as complete: it can be found, and evicted."""
        with self._lock:
            self._files[path].complete = True
            self._touch(path)

    def delete(self, path: Path) -> None:
        """Delete a file and release its quota."""
        with self._lock:
            file = self._files.pop(path, None)
        if file is not None:
            self._remove(path, file)

    def _check_disk(self, amount: int) -> None:
        """Raise NoCapacity when less than the reserve would be left on the file system."""
        disk = os.statvfs(self.folder)
        reserve = min(RESERVE, int(disk.f_blocks * disk.f_frsize * RESERVE_FRACTION))
        if disk.f_bavail * disk.f_frsize < amount + reserve:
            raise NoCapacity

    def _delete_oldest(self, caller: str | None = None) -> bool:
        """Evict the least recently used idle file, of ``caller`` or of all; return False if there is none."""
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
        self._quota.release(file.caller, file.size)

    # ---- reading -------------------------------------------------------------------------------------------

    def within(self, path: str | Path) -> bool:
        """Whether a path leads into the folder, existing or not."""
        return self._resolved(path) is not None

    def find(self, path: str | Path) -> Path | None:
        """Return the file that a caller's ``path`` names and mark it as used; None if there is none."""
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
        """Protect the file from deletion inside the context; mark it as used at the end."""
        self._add_reader(path, 1)
        try:
            yield
        finally:
            self._add_reader(path, -1)

    def keep(self, picture: Path) -> Path:
        """Return a copy of an example picture, kept until the page stops."""
        copy = self._kept.get(picture)
        if copy is None or not copy.is_file():
            copy = Path(shutil.copyfile(picture, self._new_folder() / picture.name))
            with self._lock:
                self._kept[picture] = copy
        return copy

    def _resolved(self, path: str | Path) -> Path | None:
        """Return the resolved path if it leads into the folder."""
        try:
            found = Path(path).resolve()
            return found if found.is_relative_to(self.folder) else None
        except (OSError, ValueError, RuntimeError):  # name too long, null byte, symlink loop
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
        """Delete files not used for AGE seconds."""
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

    def _new_folder(self) -> Path:
        """Create a folder for one file, and the store's again if a cleaner has removed it. Raises OSError."""
        with self._lock:
            try:
                found = self.folder.lstat()
            except FileNotFoundError:
                _, lock = _make(self._prefix, self.folder)
                os.close(self._folder_lock)
                self._folder_lock = lock
            else:
                # Without the set-group-ID bit, which a volume of Kubernetes with fsGroup hands down.
                if found.st_uid != os.getuid() or found.st_mode & 0o777 != 0o700:
                    raise PermissionError(errno.EPERM, "another user created a folder with this name")
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir(0o700)
        return folder


class Incoming:
    """An upload being written. Call ``finish`` or ``discard`` at the end."""

    def __init__(self, uploads: Uploads, path: Path, caller: str) -> None:
        self._uploads = uploads
        self._path = path
        self._caller = caller
        self._file: IO[bytes] | None = None
        self._left = LEAST_BYTES  # counted but not yet written

    def open(self) -> None:
        self._file = self._path.open("xb")

    def write(self, data: bytes) -> None:
        """Raises NoCapacity and QuotaExceeded."""
        assert self._file is not None
        with _full_disk_is_no_capacity():
            if len(data) > self._left:
                self._uploads.grow(self._path, self._caller, len(data) - self._left)
            self._left = max(0, self._left - len(data))
            self._file.write(data)

    def finish(self) -> Path:
        """Close the file and return its path. Raises NoCapacity."""
        assert self._file is not None
        with _full_disk_is_no_capacity():
            self._file.close()
        self._uploads.complete(self._path)
        return self._path

    def discard(self) -> None:
        """Delete the file."""
        if self._file is not None:
            with suppress(OSError):  # on a full disk, closing flushes and fails again
                self._file.close()
        self._uploads.delete(self._path)


@contextmanager
def _full_disk_is_no_capacity() -> Iterator[None]:
    """Map a full disk to NoCapacity."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise NoCapacity from error
        raise


def _make(prefix: str, path: Path | None = None) -> tuple[Path, int]:
    """Create a private folder, at ``path`` if given; return it and the descriptor of its lock. It is renamed
    only when locked, so that no other process removes it as abandoned. Raises OSError."""
    new = Path(tempfile.mkdtemp(prefix=f".{prefix}")).resolve()
    lock = os.open(new / LOCK, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        with suppress(OSError):  # a file system without locks: no other process can lock it either
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        folder = path or new.with_name(new.name.removeprefix("."))
        new.rename(folder)
    except BaseException:
        os.close(lock)
        shutil.rmtree(new, ignore_errors=True)
        raise
    return folder, lock


def _remove_abandoned(prefix: str) -> None:
    """Remove the folders that killed processes on this port left behind."""
    for left in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):
            if (
                left.is_dir()
                and not left.is_symlink()
                and left.stat().st_uid == os.getuid()
                and _is_unlocked(left)
            ):
                shutil.rmtree(left, ignore_errors=True)


def _is_unlocked(folder: Path) -> bool:
    """Whether no process holds the folder's lock. Raises OSError when that is unknown."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return True  # from a version without locks; this process has its port
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return True
    except BlockingIOError:
        return False
    finally:
        os.close(lock)

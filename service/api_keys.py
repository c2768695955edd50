"""API keys: a file of names, hashes and limits, reloaded when it changes; and the command that makes a key.

    python -m service.api_keys make NAME --file FILE [--per-minute N] [--concurrent N]

A line of the file is ``NAME SHA256 PER_MINUTE CONCURRENT``, separated by spaces or tabs; empty lines and
those that begin with ``#`` are skipped. The file holds no key, only the SHA-256 of each in hexadecimal. It
must belong to the service's user with no access for others (0600), or to root with read access for the
service's group at most (0640), as Kubernetes mounts a Secret.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import hmac
import logging
import os
import re
import secrets
import stat
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.contract.errors import SettingsError

#: Begins with a letter and has no colon, so that no name is also an address: both identify callers.
NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,4}")
FORM: Final = "NAME SHA256 PER_MINUTE CONCURRENT"
PREFIX: Final = "ofa_"  # lets secret scanners recognise a key
KEY_BYTES: Final = 32
PER_MINUTE: Final = 60  # defaults of the command
CONCURRENT: Final = 4
MAX_KEYS: Final = 1000
MAX_BYTES: Final = 1 << 18
CHECK_SECONDS: Final = 1.0  # between two looks at the file

log = logging.getLogger(__name__)
_Signature = tuple[int, ...] | None  # changes with the file; None while there is no file


@dataclass(frozen=True, slots=True)
class Key:
    """A key's owner and limits: ``per_minute`` requests started, ``concurrent`` requests running."""

    name: str
    digest: bytes
    per_minute: int
    concurrent: int


class ApiKeys:
    """The keys in a file, reloaded when it changes; if that fails, the last valid ones. Safe to call from any
    thread. The constructor raises SettingsError."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._signature = _signature(path)
        self._keys = read(path)
        self._checked = clock()
        self._outdated = False
        log.info("API_KEYS | OUTCOME=loaded | KEYS=%d", len(self._keys))

    @property
    def outdated(self) -> bool:
        """Whether the file has changed and could not be reloaded."""
        with self._lock:
            self._reload()
            return self._outdated

    def find(self, secret: str) -> Key | None:
        """Return the key whose hash is that of ``secret``. The time does not depend on which one it is."""
        digest, found = _digest(secret), None
        with self._lock:
            self._reload()
            keys = self._keys
        for key in keys:
            if hmac.compare_digest(key.digest, digest):
                found = key
        return found

    def _reload(self) -> None:
        """Reload a changed file, with the lock held."""
        now = self._clock()
        if now - self._checked < CHECK_SECONDS:
            return
        self._checked = now
        if (signature := _signature(self._path)) == self._signature:
            return
        self._signature = signature
        try:
            self._keys = read(self._path)
        except SettingsError as error:
            self._outdated = True
            log.error("API_KEYS | OUTCOME=kept_old | KEYS=%d | MSG=%s", len(self._keys), error.message)
            return
        self._outdated = False
        log.info("API_KEYS | OUTCOME=loaded | KEYS=%d", len(self._keys))


def name_of(caller: str) -> str | None:
    """Return the name of the key by which a caller is known, None for an address."""
    return caller if NAME.fullmatch(caller) else None


def read(path: Path) -> tuple[Key, ...]:
    """Return the keys in the file. Raises SettingsError, whose message quotes nothing of the file."""
    try:
        # Non-blocking, as the path may be a pipe.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            _check_private(path, os.fstat(file.fileno()))
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise _refused(f"The API keys file {path} cannot be read: {error.strerror}.") from error
    if len(content) > MAX_BYTES:
        raise _refused(f"The API keys file {path} is larger than {MAX_BYTES} bytes.")
    keys = [
        _key(f"Line {number} of the API keys file {path}", fields)
        for number, line in enumerate(content.decode("latin-1").split("\n"), 1)
        if (fields := line.split()) and not fields[0].startswith("#")
    ]
    if not 0 < len(keys) <= MAX_KEYS:
        raise _refused(f"The API keys file {path} has {len(keys)} keys. Allowed: 1 to {MAX_KEYS}.")
    for values in ([key.name for key in keys], [key.digest for key in keys]):
        if len(set(values)) < len(keys):
            raise _refused(f"The API keys file {path} has a name or a key twice.")
    return tuple(keys)


def make(path: Path, name: str, per_minute: int = PER_MINUTE, concurrent: int = CONCURRENT) -> str:
    """Return a new key, whose line is appended to the file; create the file if it is missing. Raises
    SettingsError."""
    secret = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    line = f"{name} {_digest(secret).hex()} {per_minute} {concurrent}"
    _key("The new key's line", line.split())
    try:
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _check_private(path, status := os.fstat(file.fileno()))
            size = status.st_size
            if size and name in (key.name for key in read(path)):
                raise _refused(f"The API keys file {path} already has a key named {name}.")
            ended = not size or os.pread(file.fileno(), 1, size - 1) == b"\n"
            file.write(("" if ended else "\n").encode() + f"{line}\n".encode())
    except OSError as error:
        raise _refused(f"The API keys file {path} cannot be written: {error.strerror}.") from error
    return secret


def _key(place: str, fields: Sequence[str]) -> Key:
    patterns = (NAME, _DIGEST, _NUMBER, _NUMBER)
    if len(fields) != len(patterns) or not all(map(re.Pattern.fullmatch, patterns, fields)):
        raise _refused(f"{place} is not of the form {FORM}.")
    return Key(fields[0], bytes.fromhex(fields[1]), int(fields[2]), int(fields[3]))


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _refused(f"The API keys file {path} is not a regular file.")
    if status.st_uid not in (os.geteuid(), 0):
        raise _refused(f"The API keys file {path} belongs to another user.")
    allowed = 0o700 if status.st_uid == os.geteuid() else 0o750
    if stat.S_IMODE(status.st_mode) & ~allowed:
        raise _refused(f"The API keys file {path} is accessible to other users.", f"Run: chmod 600 {path}")


def _refused(message: str, remedy: str = "Make keys with: python -m service.api_keys make.") -> SettingsError:
    return SettingsError(message, remedy=remedy, code="api_keys")


def _signature(path: Path) -> _Signature:
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", errors="surrogatepass")).digest()


def main(argv: Sequence[str]) -> int:
    """Make a key and print it, the only time it is shown. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m service.api_keys", description="Make API keys.")
    command = parser.add_subparsers(required=True, metavar="make").add_parser(
        "make", help="make a key, append its line to the file, and print the key once"
    )
    command.add_argument("name", help="the name in logs: letters, digits, . _ -, beginning with a letter")
    command.add_argument("--file", type=Path, required=True, help="the file (OFA_API_KEYS_FILE)")
    command.add_argument("--per-minute", type=int, default=PER_MINUTE, help="requests; default %(default)s")
    command.add_argument(
        "--concurrent", type=int, default=CONCURRENT, help="requests at once; default %(default)s"
    )
    options = parser.parse_args(list(argv))
    try:
        print(make(options.file, options.name, options.per_minute, options.concurrent))
    except SettingsError as error:
        print(f"api_keys: {error.message} {error.remedy} ({error.code})", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""API keys: a file of names, hashes and limits, reloaded when it changes; and the command that makes a key.

    python -m service.api_keys make NAME --file FILE [--per-minute N] [--concurrent N] [--trusted]

A line of the file is ``NAME SHA256 PER_MINUTE CONCURRENT [trusted]``, separated by spaces or tabs; empty
lines and those that begin with ``#`` are skipped. The file holds no key, only the SHA-256 of each in
hexadecimal. It must belong to the service's user with no access for others (0600), or to root with read
access for the service's group at most (0640), as Kubernetes mounts a Secret.

A trusted key is that of a page in front of this instance (--engine), which names the caller of each request.
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
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.contract.errors import SettingsError
from service.private_file import PrivateFile

#: Begins with a letter and has no colon, so that no name is also an address: both identify callers.
NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
#: Between the caller whom a trusted key names and the name of that key.
AT: Final = "@"
_DIGEST: Final = re.compile(r"[0-9A-Fa-f]{64}")
_NUMBER: Final = re.compile(r"[1-9][0-9]{0,4}")
FORM: Final = "NAME SHA256 PER_MINUTE CONCURRENT [trusted]"
TRUSTED: Final = "trusted"
PREFIX: Final = "ofa_"  # lets secret scanners recognise a key
KEY_BYTES: Final = 32
PER_MINUTE: Final = 60  # defaults of the command
CONCURRENT: Final = 4
MAX_KEYS: Final = 1000
MAX_BYTES: Final = 1 << 18
CHECK_SECONDS: Final = 1.0  # between two looks at the file

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Key:
    """A key's owner and limits: ``per_minute`` requests started, ``concurrent`` requests running. Of a
    ``trusted`` one it is believed who the caller is."""

    name: str
    digest: bytes
    per_minute: int
    concurrent: int
    trusted: bool = False


class ApiKeys:
    """The keys in a file, reloaded when it changes; if that fails, the last valid ones. Safe to call from any
    thread. The constructor raises SettingsError."""

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = path
        self._file = _file(path)
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._signature = self._file.signature()
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
        if (signature := self._file.signature()) == self._signature:
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
    name = caller.rpartition(AT)[2]
    return name if NAME.fullmatch(name) else None


def read(path: Path) -> tuple[Key, ...]:
    """Return the keys in the file. Raises SettingsError, whose message quotes nothing of the file."""
    file = _file(path)
    content = file.read(MAX_BYTES)
    keys = [
        _key(file, f"Line {number} of the API keys file {path}", fields)
        for number, line in enumerate(content.decode("latin-1").split("\n"), 1)
        if (fields := line.split()) and not fields[0].startswith("#")
    ]
    if not 0 < len(keys) <= MAX_KEYS:
        raise file.refused(f"{file} has {len(keys)} keys. Allowed: 1 to {MAX_KEYS}.")
    for values in ([key.name for key in keys], [key.digest for key in keys]):
        if len(set(values)) < len(keys):
            raise file.refused(f"{file} has a name or a key twice.")
    return tuple(keys)


def make(
    path: Path,
    name: str,
    per_minute: int = PER_MINUTE,
    concurrent: int = CONCURRENT,
    *,
    trusted: bool = False,
) -> str:
    """Return a new key, whose line is appended to the file; create the file if it is missing. Raises
    SettingsError."""
    secret, private = PREFIX + secrets.token_urlsafe(KEY_BYTES), _file(path)
    line = f"{name} {_digest(secret).hex()} {per_minute} {concurrent}{f' {TRUSTED}' if trusted else ''}"
    _key(private, "The new key's line", line.split())
    try:
        with open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            private.check(status := os.fstat(file.fileno()))
            size = status.st_size
            if size and name in (key.name for key in read(path)):
                raise private.refused(f"{private} already has a key named {name}.")
            ended = not size or os.pread(file.fileno(), 1, size - 1) == b"\n"
            file.write(("" if ended else "\n").encode() + f"{line}\n".encode())
    except OSError as error:
        raise private.refused(f"{private} cannot be written: {error.strerror}.") from error
    return secret


def _key(file: PrivateFile, place: str, fields: Sequence[str]) -> Key:
    patterns = (NAME, _DIGEST, _NUMBER, _NUMBER)
    limits, marks = fields[: len(patterns)], fields[len(patterns) :]
    known = len(limits) == len(patterns) and all(map(re.Pattern.fullmatch, patterns, limits))
    if not known or marks not in ([], [TRUSTED]):
        raise file.refused(f"{place} is not of the form {FORM}.")
    return Key(fields[0], bytes.fromhex(fields[1]), int(fields[2]), int(fields[3]), bool(marks))


def _file(path: Path) -> PrivateFile:
    return PrivateFile(path, "API keys file", "api_keys", "Make keys with: python -m service.api_keys make.")


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
    command.add_argument(
        "--trusted", action="store_true", help="for a page in front (--engine), which names its callers"
    )
    options = parser.parse_args(list(argv))
    try:
        limits = options.per_minute, options.concurrent
        print(make(options.file, options.name, *limits, trusted=options.trusted))
    except SettingsError as error:
        print(f"api_keys: {error.message} {error.remedy} ({error.code})", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

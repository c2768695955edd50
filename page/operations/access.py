"""Who may see the operations tab: a password, sessions that end, wrong guesses that cost time. No HTTP.

A session begins with the password and is a random token of which only the hash is kept here. Wrong guesses
delay the caller who made them and nobody else. Everything that strangers can make grow is bounded.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import os
import secrets
import stat
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

SESSIONS: Final = 32  # at once; the oldest ends when there is one more
SESSION_SECONDS: Final = 12 * 3600.0
IDLE_SECONDS: Final = 3600.0
WRONG_PER_CALLER: Final = 5  # guesses of one caller within GUESS_SECONDS
GUESS_SECONDS: Final = 300.0
CALLERS: Final = 1024  # whose guesses are remembered

PASSWORD_FILE: Final = "ops_password"  # in the run-time folder
PASSWORD_BYTES: Final = 32


class WrongPassword(Exception):
    """The password is not the one."""


class TooManyGuesses(Exception):
    """No guess of this caller is looked at, the right one included, for ``seconds``."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Access:
    """Sessions over one password."""

    def __init__(self, password: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._password = _hash(password)
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._sessions: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # began, last used
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def admits(self, token: str | None) -> bool:
        """Whether a call with this session's token may be answered."""
        if not token:
            return False
        key, now = _hash(token), self._clock()
        with self._lock:
            times = self._sessions.get(key)
            if times is None:
                return False
            began, used = times
            if now - began > SESSION_SECONDS or now - used > IDLE_SECONDS:
                del self._sessions[key]
                return False
            self._sessions[key] = (began, now)
            return True

    def log_in(self, password: str, caller: str) -> str:
        """A new session's token. Raises WrongPassword and TooManyGuesses."""
        with self._lock:
            now = self._clock()
            self._check_guesses(caller, now)
            # Hashes have one length, so that comparing them tells nothing of the password's.
            if not hmac.compare_digest(_hash(password), self._password):
                self._count_guess(caller, now)
                raise WrongPassword
            token = secrets.token_urlsafe(32)
            self._sessions[_hash(token)] = (now, now)
            while len(self._sessions) > SESSIONS:
                self._sessions.popitem(last=False)
            return token

    def log_out(self, token: str | None) -> None:
        if token:
            with self._lock:
                self._sessions.pop(_hash(token), None)

    def _check_guesses(self, caller: str, now: float) -> None:
        """Called with the lock held."""
        guesses = self._wrong.get(caller, deque())
        while guesses and now - guesses[0] >= GUESS_SECONDS:
            guesses.popleft()
        if len(guesses) >= WRONG_PER_CALLER:
            raise TooManyGuesses(max(1, math.ceil(GUESS_SECONDS - (now - guesses[0]))))

    def _count_guess(self, caller: str, now: float) -> None:
        """Called with the lock held."""
        self._wrong.setdefault(caller, deque(maxlen=WRONG_PER_CALLER)).append(now)
        self._wrong.move_to_end(caller)
        while len(self._wrong) > CALLERS:
            self._wrong.popitem(last=False)


def generated_password(run_dir: Path) -> tuple[str, Path]:
    """The password that an instance in ``run_dir`` made for itself, and its file: kept while nobody else can
    have read or written it, else made again. Raises OSError."""
    path = run_dir / PASSWORD_FILE
    kept = _read_own(path)
    if kept is not None:
        return kept, path
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    run_dir.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"{password}\n")
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
    return password, path


def _read_own(path: Path) -> str | None:
    """The password in a file that is ours alone, or None."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            found = os.fstat(file.fileno())
            mine = stat.S_ISREG(found.st_mode) and found.st_uid == os.getuid()
            if not mine or stat.S_IMODE(found.st_mode) != 0o600:
                return None
            password = file.read(1024).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return password if len(password) >= PASSWORD_BYTES else None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()

"""Access by a password: expiring sessions, a limit on wrong passwords. No HTTP.

A session is a random token, stored only as a hash. Wrong passwords delay only the caller that sent them.
Every table is bounded.
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

MAX_SESSIONS: Final = 32  # the oldest ends first
SESSION_SECONDS: Final = 12 * 3600.0
IDLE_SECONDS: Final = 3600.0
WRONG_PER_CALLER: Final = 5  # wrong passwords within GUESS_SECONDS
GUESS_SECONDS: Final = 300.0
CALLERS: Final = 1024  # whose wrong passwords are counted

PASSWORD_FILE: Final = "ops_password"  # in the run directory
PASSWORD_BYTES: Final = 32


class WrongPassword(Exception):
    """The password is wrong."""


class TooManyGuesses(Exception):
    """No password of this caller is checked for ``seconds``, not even the right one."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


class Access:
    """At most ``sessions`` sessions of one password. Safe to call from any thread."""

    def __init__(
        self,
        password: str,
        *,
        sessions: int = MAX_SESSIONS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._most = sessions
        self._password = _hash(password)
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._sessions: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # began, last used
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()

    def admits(self, token: str | None) -> bool:
        """Whether ``token`` names a valid session; mark it as used."""
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
        """Begin a session and return its token. Raises WrongPassword and TooManyGuesses."""
        with self._lock:
            now = self._clock()
            self._check_guesses(caller, now)
            # Hashes, so that the comparison's time does not depend on the password's length.
            if not hmac.compare_digest(_hash(password), self._password):
                self._count_guess(caller, now)
                raise WrongPassword
            token = secrets.token_urlsafe(32)
            self._sessions[_hash(token)] = (now, now)
            while len(self._sessions) > self._most:
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
    """Return the password generated for this run directory, and its file. Generate a new one when another
    user may have read or written the file. Raises OSError."""
    path = run_dir / PASSWORD_FILE
    stored = _read_private(path)
    if stored is not None:
        return stored, path
    password = secrets.token_urlsafe(PASSWORD_BYTES)
    run_dir.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w") as file:
            file.write(f"{password}\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return password, path


def _read_private(path: Path) -> str | None:
    """Return the password from a file that only this user can access, else None."""
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)) as file:
            status = os.fstat(file.fileno())
            own = stat.S_ISREG(status.st_mode) and status.st_uid == os.getuid()
            if not own or stat.S_IMODE(status.st_mode) != 0o600:
                return None
            password = file.read(1024).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return password if len(password) >= PASSWORD_BYTES else None


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()

"""Who may see the operations tab: a password, sessions that end, guesses that are counted. No HTTP.

With a password, a session begins with it and is a random token of which only the hash is kept here. Without
one the tab is there on a loopback address only, and for callers of this machine that come directly: what a
proxy passes on comes from anybody. Everything that strangers can make grow is bounded.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import math
import secrets
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

SESSIONS: Final = 32  # at once; the oldest ends when there is one more
SESSION_SECONDS: Final = 12 * 3600.0
IDLE_SECONDS: Final = 3600.0
WRONG_PER_CALLER: Final = 5  # guesses within GUESS_SECONDS …
WRONG_IN_ALL: Final = 50  # … from one address, and from all of them
GUESS_SECONDS: Final = 300.0
CALLERS: Final = 1024
# What proxies add to what they pass on.
PASSED_ON: Final = ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")


class WrongPassword(Exception):
    """The password is not the one."""


class TooManyGuesses(Exception):
    """No guess is looked at, the right one included, for ``seconds``."""

    def __init__(self, seconds: int) -> None:
        super().__init__(seconds)
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Caller:
    """What is known of whoever asks: address, request headers in lower case, session token."""

    address: str
    headers: Mapping[str, str]
    token: str | None = None


def is_loopback(host: str) -> bool:
    """Whether a name or an address means this machine, and nobody else can reach it."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class Access:
    """Sessions over one password, or, without one, the rule for this machine's own callers."""

    def __init__(self, password: str | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._password = None if password is None else _hash(password)
        self._clock = clock
        self._lock = threading.Lock()  # guards everything below
        self._sessions: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # began, last used
        self._wrong: OrderedDict[str, deque[float]] = OrderedDict()
        self._wrong_in_all: deque[float] = deque(maxlen=WRONG_IN_ALL)

    @property
    def asks_password(self) -> bool:
        return self._password is not None

    def admits(self, caller: Caller) -> bool:
        """Whether this call may be answered."""
        if self._password is None:
            return _is_direct(caller)
        if not caller.token:
            return False
        key, now = _hash(caller.token), self._clock()
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

    def log_in(self, password: str, address: str) -> str:
        """A new session's token. Raises WrongPassword and TooManyGuesses."""
        with self._lock:
            now, who = self._clock(), _network(address)
            self._check_guesses(who, now)
            # Hashes have one length, so that comparing them tells nothing of the password's.
            if self._password is None or not hmac.compare_digest(_hash(password), self._password):
                self._count_guess(who, now)
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

    def _check_guesses(self, who: str, now: float) -> None:
        """Called with the lock held."""
        guesses = self._wrong.get(who, deque())
        for times, most in ((guesses, WRONG_PER_CALLER), (self._wrong_in_all, WRONG_IN_ALL)):
            while times and now - times[0] >= GUESS_SECONDS:
                times.popleft()
            if len(times) >= most:
                raise TooManyGuesses(max(1, math.ceil(GUESS_SECONDS - (now - times[0]))))

    def _count_guess(self, who: str, now: float) -> None:
        """Called with the lock held."""
        self._wrong.setdefault(who, deque(maxlen=WRONG_PER_CALLER)).append(now)
        self._wrong.move_to_end(who)
        while len(self._wrong) > CALLERS:
            self._wrong.popitem(last=False)
        self._wrong_in_all.append(now)


def _is_direct(caller: Caller) -> bool:
    """From this machine, to a name of this machine: a page of a stranger's that has its own name lead here
    is refused by what the browser says it asked for (Host)."""
    if not is_loopback(caller.address) or any(name in caller.headers for name in PASSED_ON):
        return False
    return is_loopback(_name(caller.headers.get("host", "")))


def _name(host: str) -> str:
    """A Host header without its port."""
    return host.partition("]")[0] + "]" if host.startswith("[") else host.partition(":")[0]


def _network(address: str) -> str:
    """Whose guesses count together: an address, or the /64 that one IPv6 subscriber has all of."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return "?"
    if isinstance(found, ipaddress.IPv6Address) and found.ipv4_mapped is None:
        return str(ipaddress.ip_network((found, 64), strict=False))
    return str(found)


def _hash(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", errors="surrogatepass")).digest()

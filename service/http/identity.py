"""Identify callers and limit them: API keys, sessions of the page, and the limits of a key.

For every front, in this order:

    caller = identity.identify(scope)            # Unauthorized, Forbidden
    with identity.admitted(caller):              # LimitReached; before the body is read
        identity.count(caller, len(texts))       # LimitReached, Forbidden; once the texts are known
        ... submit with caller=caller.name and wait for the answers ...

``headers_of`` gives the headers of the answer to each of these errors. Without keys and sessions every caller
is its address and has no limits.
"""

from __future__ import annotations

import logging
import math
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from service.api_keys import AT, ApiKeys, Key
from service.callers import Callers
from service.contract.causes import Denial
from service.contract.errors import Denied, Forbidden, LimitReached, Unauthorized
from service.http.bodies import Scope, values
from service.http.headers import caller_of
from service.http.log_limit import LogLimit
from service.http.origin import same_origin

if TYPE_CHECKING:
    from service.http.rates import Rates

CALLER: Final = "caller"  # the Caller's name in a scope's "state"
CONCURRENT_RETRY: Final = 1  # seconds
LOG_SECONDS: Final = 60.0  # between two lines about denied callers
#: The header in which the owner of a trusted key, a page in front, names the caller of its request.
NAMED_CALLER: Final = b"x-ofa-caller"
#: An address, a /64, a key's name, or with ``@`` what a page behind a page names so.
_CALLER: Final = re.compile(r"[A-Za-z0-9._:/@-]{1,128}")
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. ``name`` is the key's name, or the address if there is no key
    (service.callers). With a trusted key it is the caller whom the request names, ``@``, the
    key's name."""

    name: str
    key: Key | None = None


class Sessions(Protocol):
    """The sessions of a login, each known by a token in the cookie of that name."""

    cookie: str

    def admits(self, token: str | None) -> bool: ...


class Identity:
    """Identifies callers and enforces the limits of their keys. Safe to call from any thread.

    ``keys``: the API keys, if there are any. ``sessions``: those of the page, if it has a login. With either,
    every request needs a key or a session.
    """

    def __init__(
        self,
        keys: ApiKeys | None = None,
        *,
        sessions: Sessions | None = None,
        callers: Callers | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self._sessions = sessions
        self._callers = callers or Callers()
        self._rates = _rates(clock) if keys is not None else None
        self._lock = threading.Lock()  # guards the next line
        self._running: Counter[str] = Counter()
        self._denied = LogLimit(LOG_SECONDS)
        self._limited = LogLimit(LOG_SECONDS)

    @property
    def required(self) -> bool:
        """Whether a request needs a key or a session."""
        return self._keys is not None or self._sessions is not None

    def identify(self, scope: Scope) -> Caller:
        """Return who sent the request. Raises Unauthorized, and Forbidden for a session's request from a page
        of another origin."""
        address = caller_of(scope, self._callers)
        if not self.required:
            return Caller(address)
        secrets = _secrets(scope)
        if not secrets and self.has_session(scope):
            if not same_origin(scope, self._callers):
                raise Forbidden("Cross-origin requests are not allowed.", code=Denial.CROSS_ORIGIN)
            return Caller(address)
        if len(secrets) == 1 and self._keys is not None:
            if (key := self._keys.find(secrets.pop())) is not None:
                return Caller(_named(scope, key), key)
            secrets.add("")
        code, message = Denial.NO_KEY, "An API key or a login is required."
        if secrets:
            code, message = Denial.WRONG_KEY, "The API key is not valid."
        if (more := self._denied.admit()) is not None:
            log.warning("API_KEY_DENIED | CODE=%s | FROM=%s | MORE=%d", code, address, more)
        raise Unauthorized(message, code=code)

    def has_session(self, scope: Scope) -> bool:
        """Whether the request carries the cookie of a valid session of the page."""
        sessions = self._sessions
        return sessions is not None and sessions.admits(_cookie(scope, sessions.cookie))

    @contextmanager
    def admitted(self, caller: Caller) -> Iterator[None]:
        """Count the caller's request as running. Raises LimitReached, also if its minute is used up."""
        with self.running(caller):
            key = caller.key
            if key is not None and self._rates is not None and (wait := self._rates.wait(key, 1)) > 0:
                raise self._over_rate(key, wait)
            yield

    @contextmanager
    def running(self, caller: Caller) -> Iterator[None]:
        """Count the caller's request as running. Raises LimitReached."""
        key = caller.key
        if key is None:
            yield
            return
        with self._lock:
            if self._running[key.name] >= key.concurrent:
                message = f"This key's limit of {key.concurrent} requests at once is reached."
                raise self._limit(key, Denial.CONCURRENT_LIMIT, message, key.concurrent, CONCURRENT_RETRY)
            self._running[key.name] += 1
        try:
            yield
        finally:
            with self._lock:
                self._running[key.name] -= 1
                self._running += Counter()  # drops the names at zero

    def count(self, caller: Caller, texts: int = 1) -> None:
        """Count ``texts`` requests of the caller's minute, all or none. Raises LimitReached, and Forbidden if
        they are more than a whole minute's."""
        key = caller.key
        if key is None or self._rates is None:
            return
        if texts > key.per_minute:
            raise Forbidden(
                f"{texts} texts are more than this key's {key.per_minute} requests per minute.",
                remedy="Send fewer texts in a call.",
                code=Denial.TEXTS_OVER_LIMIT,
                limit=key.per_minute,
            )
        if (wait := self._rates.hit(key, texts)) > 0:
            raise self._over_rate(key, wait)

    def _over_rate(self, key: Key, wait: float) -> LimitReached:
        message = f"This key's limit of {key.per_minute} requests per minute is reached."
        return self._limit(key, Denial.RATE_LIMIT, message, key.per_minute, math.ceil(wait))

    def _limit(self, key: Key, code: Denial, message: str, limit: int, wait: int) -> LimitReached:
        if (more := self._limited.admit()) is not None:
            log.warning("API_KEY_LIMIT | CODE=%s | KEY=%s | MORE=%d", code, key.name, more)
        return LimitReached(message, code=code, limit=limit, retry_after=wait)


def headers_of(error: Denied) -> dict[str, str]:
    """Return the headers that the answer to ``error`` needs."""
    if isinstance(error, Unauthorized):
        wrong = ', error="invalid_token"' if error.code == Denial.WRONG_KEY else ""
        return {"www-authenticate": f'Bearer realm="api"{wrong}'}
    return {"retry-after": str(error.retry_after)} if isinstance(error, LimitReached) else {}


def _rates(clock: Callable[[], float]) -> Rates:
    from service.http.rates import Rates  # imported only with API keys: it takes 0.1 s

    return Rates(clock)


def _named(scope: Scope, key: Key) -> str:
    """Return the name of the caller of a request with ``key``."""
    named = values(scope, NAMED_CALLER) if key.trusted else []
    given = named[0].decode("latin-1") if len(named) == 1 else ""
    return f"{given}{AT}{key.name}" if _CALLER.fullmatch(given) else key.name


def _secrets(scope: Scope) -> set[str]:
    """Return the keys that the request carries."""
    bearer = [value[7:] for value in values(scope, b"authorization") if value[:7].lower() == b"bearer "]
    return {value.decode("latin-1").strip() for value in [*bearer, *values(scope, b"x-api-key")]}


def _cookie(scope: Scope, name: str) -> str | None:
    for header in values(scope, b"cookie"):
        for part in header.decode("latin-1").split(";"):
            key, _, value = part.strip().partition("=")
            if key == name:
                return value
    return None

"""Listening sockets, and limits on their connections.

Limits apply to the connections of a server, to those of one caller, and to the seconds a connection may spend
in each phase of a request. At a limit, the connection idle longest without a request in progress is closed
to admit the new one. Used by uvicorn for the page and by waitress for health; each server calls its
``Connections`` from its own thread only.
"""

from __future__ import annotations

import errno
import logging
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from service.callers import Callers
from service.contract.errors import PortTaken, SettingsError

BACKLOG: Final = 128
DESCRIPTORS: Final = 65_536  # requested at most; the limits below need no more
#: With 1,024 descriptors, the usual minimum, these leave 512 for files, readers and the guardian's channel.
PAGE_CONNECTIONS: Final = 2_000
HEALTH_CONNECTIONS: Final = 256
CALLER_SHARE: Final = 4  # one caller may hold a quarter of a server's connections
CLOSED: Final = ("slow", "cap", "refused")
#: Errors of accept() without a descriptor or memory for another connection.
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_LOG_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)


class Phase(IntEnum):
    """The phase of a connection. At a limit, connections of a lower phase are closed first."""

    IDLE = 0  # before the first byte of a request, or after an answer
    HEAD = 1
    BODY = 2
    BUSY = 3  # being answered; never closed to admit others


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Maximum open connections, and seconds allowed for the first byte, between requests, for a request's
    head, for its body, and without progress of body or answer. The whole answer has no limit."""

    connections: int
    first_byte: float = 20.0
    keep_alive: float = 75.0  # longer than proxies keep idle connections, to avoid races with reuse
    head: float = 10.0
    body: float = 120.0
    stall: float = 30.0

    @property
    def per_caller(self) -> int:
        return max(1, self.connections // CALLER_SHARE)


class Watch:
    """The progress of a connection from ``peer``. Times are monotonic seconds."""

    def __init__(self, peer: str, now: float) -> None:
        self.peer = peer
        self.phase = Phase.IDLE
        self.since = now  # when the phase began; BODY keeps the start of HEAD
        self.fresh = True  # no request yet
        self.moved = now  # last progress of body or answer; current while neither is pending
        self._left = 0

    def update(self, phase: Phase, left: int, now: float) -> None:
        """Set the phase and the number of answer bytes that the peer has not taken."""
        if phase is not self.phase:
            if (self.phase, phase) != (Phase.HEAD, Phase.BODY):
                self.since = now
            self.fresh = False
            self.phase = phase
        if left != self._left or not (left or phase is Phase.BODY):
            self._left, self.moved = left, now

    def received(self, now: float) -> None:
        """Record that bytes of a request arrived."""
        self.moved = now


class Connection(Protocol):
    """A connection of a server."""

    watch: Watch

    def refresh(self, now: float) -> None:
        """Update ``watch``."""

    def drop(self) -> None:
        """Close it without sending more. The server calls ``Connections.remove`` now or later."""


class Connections:
    """The open connections of one server. ``name`` labels it in the log and the metrics."""

    def __init__(
        self,
        name: str,
        limits: Limits,
        callers: Callers | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self.limits = limits
        self.dropped: Counter[str] = Counter()  # by one of CLOSED
        self.exhausted = 0  # connections refused without a descriptor
        self._callers = callers or Callers()
        self._clock = clock
        self._open: dict[Connection, str] = {}
        self._of_caller: Counter[str] = Counter()
        self._logged_at: float | None = None

    @property
    def count(self) -> int:
        """The number of open connections."""
        return len(self._open)

    def admit(self, connection: Connection) -> bool:
        """Register a new connection, closing another at a limit; False if it must be closed instead."""
        peer = connection.watch.peer
        caller = self._callers.of(peer, {})
        if self._of_caller[caller] >= self.limits.per_caller and not self._callers.is_proxy(peer):
            admitted = self._make_room(caller)
        else:
            admitted = len(self._open) < self.limits.connections or self._make_room(None)
        if not admitted:
            self.dropped["refused"] += 1
            return False
        self._open[connection] = caller
        self._of_caller[caller] += 1
        return True

    def remove(self, connection: Connection) -> None:
        """Unregister a closed connection; no effect if it is not registered."""
        caller = self._open.pop(connection, None)
        if caller is not None:
            self._of_caller[caller] -= 1
            if not self._of_caller[caller]:
                del self._of_caller[caller]

    def sweep(self) -> None:
        """Close connections that exceed a time limit. Called about once a second."""
        now = self._clock()
        for connection in list(self._open):
            connection.refresh(now)
            if self._overdue(connection.watch, now):
                self._drop(connection, "slow")

    def out_of_descriptors(self) -> None:
        """Count a connection that had no descriptor; log at most once a minute."""
        self.exhausted += 1
        now = self._clock()
        if self._logged_at is None or now - self._logged_at >= _LOG_SECONDS:
            self._logged_at = now
            _log.error("DESCRIPTORS | PORT=%s | OPEN=%d | LIMIT=%d", self.name, self.count, descriptors())

    def _make_room(self, caller: str | None) -> bool:
        """Close the least active connection of ``caller``, or of the caller with the most if None."""
        if caller is None:
            caller = max(self._of_caller, key=lambda one: self._of_caller[one])
        now = self._clock()
        own = [one for one, whose in self._open.items() if whose == caller]
        for one in own:
            one.refresh(now)
        spare = [one for one in own if one.watch.phase < Phase.BUSY]
        if not spare:
            return False
        self._drop(min(spare, key=lambda one: (one.watch.phase, one.watch.since)), "cap")
        return True

    def _drop(self, connection: Connection, why: str) -> None:
        self.dropped[why] += 1
        self.remove(connection)
        connection.drop()

    def _overdue(self, watch: Watch, now: float) -> bool:
        limits, spent = self.limits, now - watch.since
        match watch.phase:
            case Phase.IDLE if spent > (limits.first_byte if watch.fresh else limits.keep_alive):
                return True
            case Phase.HEAD if spent > limits.head:
                return True
            case Phase.BODY if spent > limits.body:
                return True
        return now - watch.moved > limits.stall


def raise_descriptor_limit() -> int:
    """Raise the soft limit on open descriptors to the hard limit, at most DESCRIPTORS; return the new
    limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    target = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < target:
        resource.setrlimit(resource.RLIMIT_NOFILE, (target, hard))
    return descriptors()


def descriptors() -> int:
    """The limit on this process's open descriptors."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def page_limits() -> Limits:
    """The page's limits, given the descriptor limit."""
    return Limits(connections=min(PAGE_CONNECTIONS, max(8, descriptors() * 3 // 8)))


def health_limits() -> Limits:
    """The health API's limits, given the descriptor limit."""
    return Limits(
        connections=min(HEALTH_CONNECTIONS, max(8, descriptors() // 8)),
        first_byte=10.0,
        keep_alive=30.0,
        body=10.0,
        stall=10.0,
    )


def listen(host: str, port: int, flag: str) -> socket.socket:
    """Listen on ``host`` and ``port``; 0 picks a free port. Raises SettingsError naming port and ``flag``."""
    sock = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
        return sock
    except OSError as error:
        if sock is not None:
            sock.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"Port {port} on {host} is already in use.",
                remedy=f"Stop the other process or pass {flag}.",
                port=port,
            ) from error
        raise SettingsError(
            f"Cannot listen on {host} port {port}: {error.strerror or type(error).__name__}.",
            remedy=f"Check the address and {flag}.",
            port=port,
        ) from error

"""Listening sockets, and a bound on what the connections to them may cost.

A server may hold so many connections, one caller a part of them, and each connection so many seconds in each
phase of a request. At a cap the connection that has waited longest without a request in progress is closed,
so that whoever comes with a request is served. Two servers use this: uvicorn for the page, waitress for
health. Each calls its ``Connections`` from its own thread alone.
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
DESCRIPTORS: Final = 65_536  # more are not asked for: no cap below needs them
#: At the least descriptors a system gives (1,024) these leave 512 for files, readers, the guardian's channel.
PAGE_CONNECTIONS: Final = 2_000
HEALTH_CONNECTIONS: Final = 256
PART_OF_A_CALLER: Final = 4  # one caller may hold this part of a server's connections
CLOSED: Final = ("slow", "cap", "refused")
#: What accept() fails with where there is no descriptor, or no memory, for another connection.
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_SAY_SECONDS: Final = 60.0
_log = logging.getLogger(__name__)


class Phase(IntEnum):
    """Where a connection is. At a cap, connections of a lower phase are closed first."""

    IDLE = 0  # nothing of a request has come, or the last one was answered
    HEAD = 1
    BODY = 2
    BUSY = 3  # a request is being answered; never closed for others


@dataclass(frozen=True, kw_only=True, slots=True)
class Limits:
    """Connections at once, and the seconds that one may take: for the first byte, idle between requests, for
    a request's head, for its body, and without a byte of body or answer moving. An answer has no limit."""

    connections: int
    first_byte: float = 20.0
    keep_alive: float = 75.0  # longer than proxies keep an idle connection, so that none is closed in use
    head: float = 10.0
    body: float = 120.0
    stall: float = 30.0

    @property
    def of_a_caller(self) -> int:
        return max(1, self.connections // PART_OF_A_CALLER)


class Watch:
    """How a connection from ``peer`` has come along. Times are monotonic seconds."""

    def __init__(self, peer: str, now: float) -> None:
        self.peer = peer
        self.phase = Phase.IDLE
        self.since = now  # when the phase began; a body's time begins with its head's
        self.fresh = True  # it has carried no request yet
        self.moved = now  # when a byte last moved while some had to; now while none has to
        self._left = 0

    def update(self, phase: Phase, left: int, now: float) -> None:
        """It is in ``phase``, and ``left`` bytes of its answer have not been taken by the other side."""
        if phase is not self.phase:
            if (self.phase, phase) != (Phase.HEAD, Phase.BODY):
                self.since = now
            self.fresh = False
            self.phase = phase
        if left != self._left or not (left or phase is Phase.BODY):
            self._left, self.moved = left, now

    def received(self, now: float) -> None:
        """Bytes of a request came."""
        self.moved = now


class Connection(Protocol):
    """One connection of a server's."""

    watch: Watch

    def refresh(self, now: float) -> None:
        """Update ``watch``."""

    def drop(self) -> None:
        """Close it, with nothing more sent. The server calls ``Connections.remove`` for it, now or later."""


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
        self.exhausted = 0  # connections that no descriptor was left for
        self._callers = callers or Callers()
        self._clock = clock
        self._open: dict[Connection, str] = {}
        self._of_caller: Counter[str] = Counter()
        self._said_at: float | None = None

    @property
    def count(self) -> int:
        """How many are open now."""
        return len(self._open)

    def admit(self, connection: Connection) -> bool:
        """Count a new connection in, closing an idle one where a cap is reached; False if it has to go."""
        peer = connection.watch.peer
        caller = self._callers.of(peer, {})
        if self._of_caller[caller] >= self.limits.of_a_caller and not self._callers.is_proxy(peer):
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
        """Count a connection out that was closed; harmless for one that is not counted."""
        caller = self._open.pop(connection, None)
        if caller is not None:
            self._of_caller[caller] -= 1
            if not self._of_caller[caller]:
                del self._of_caller[caller]

    def sweep(self) -> None:
        """Close what has taken longer than it may. Called about once a second."""
        now = self._clock()
        for connection in list(self._open):
            connection.refresh(now)
            if self._overdue(connection.watch, now):
                self._drop(connection, "slow")

    def out_of_descriptors(self) -> None:
        """A connection could not be accepted for lack of a descriptor: counted, and logged once a minute."""
        self.exhausted += 1
        now = self._clock()
        if self._said_at is None or now - self._said_at >= _SAY_SECONDS:
            self._said_at = now
            _log.error("DESCRIPTORS | PORT=%s | OPEN=%d | LIMIT=%d", self.name, self.count, descriptors())

    def _make_room(self, caller: str | None) -> bool:
        """Close the connection that can best be spared: of ``caller``, or if None of whoever has the most."""
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
    """Raise the soft limit on open descriptors to what the hard one allows, DESCRIPTORS at most; the limit
    that holds now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return descriptors()


def descriptors() -> int:
    """How many descriptors this process may have open."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return DESCRIPTORS if soft == resource.RLIM_INFINITY else soft


def page_limits() -> Limits:
    """The page's limits, by the descriptors there are."""
    return Limits(connections=min(PAGE_CONNECTIONS, max(8, descriptors() * 3 // 8)))


def health_limits() -> Limits:
    """The health API's limits, by the descriptors there are."""
    return Limits(
        connections=min(HEALTH_CONNECTIONS, max(8, descriptors() // 8)),
        first_byte=10.0,
        keep_alive=30.0,
        body=10.0,
        stall=10.0,
    )


def listen(host: str, port: int, flag: str) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises SettingsError that names the port and ``flag``."""
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

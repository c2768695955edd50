"""What is known in this process of the replicas: their last reports, and whether they respond.

Ray pickles the module of a router by value. So what the router and the ingress share has its own module.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

STALE_SECONDS: Final = 3.0  # age at which a report counts no longer; six periods, for busy machines
SILENT_SECONDS: Final = 1.0  # a replica has not said that it takes a request sent to it


class Report(NamedTuple):
    """The last report of a replica, and its age in seconds."""

    replica_id: str
    stats: Mapping[str, Any]
    age: float


@dataclass(slots=True)
class Seen:
    """What is known of one replica. Times are monotonic seconds.

    Attributes:
        stats: its last report.
        reported: when its report last changed.
        sent: when the oldest request was sent to it that it has not taken or refused since; None without one.
    """

    stats: Mapping[str, Any]
    reported: float
    sent: float | None = None

    def responds(self, now: float) -> bool:
        """Whether there was a sign of life lately."""
        silent = self.sent is not None and now - self.sent > SILENT_SECONDS
        return not silent and now - self.reported <= STALE_SECONDS


class Watched:
    """What is known of all replicas. Used by the router's thread, and by the ingress's to report health."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()  # guards the next line
        self._seen: dict[Any, Seen] = {}
        WATCHED.add(self)

    def update(self, stats: Mapping[Any, Mapping[str, Any]]) -> None:
        """Take the reports of all replicas that there are, by id."""
        now = self._clock()
        with self._lock:
            for gone in self._seen.keys() - stats.keys():
                del self._seen[gone]
            for one, report in stats.items():
                known = self._seen.get(one)
                # A replica is announced only after an inference has proven it, so it may have no report yet.
                if known is None or known.stats != report:
                    self._seen[one] = Seen(dict(report), now)

    def sent(self, replica: Any) -> None:
        """A request was sent to ``replica``."""
        with self._lock:
            known = self._seen.get(replica)
            if known is not None and known.sent is None:
                known.sent = self._clock()

    def responded(self, replica: Any) -> None:
        """``replica`` took or refused a request."""
        with self._lock:
            if (known := self._seen.get(replica)) is not None:
                known.sent = None

    def best(self, replicas: Sequence[Any]) -> list[Any]:
        """Return those of ``replicas`` that are ready; if there are none those that respond, else all: the
        answer of one that is not ready says why."""
        now = self._clock()
        with self._lock:
            seen = {one: self._seen.get(one) for one in replicas}
        responding = [one for one, known in seen.items() if known is None or known.responds(now)]
        ready = [one for one in responding if (known := seen[one]) is None or known.stats.get("ready", True)]
        return ready or responding or list(replicas)

    def reports(self) -> list[Report]:
        """Return the last report of each replica that has made one."""
        now = self._clock()
        with self._lock:
            seen = [(str(one), known) for one, known in self._seen.items() if known.stats]
        return [Report(name, known.stats, now - known.reported) for name, known in seen]


#: One of each router in this process.
WATCHED: Final[weakref.WeakSet[Watched]] = weakref.WeakSet()


def reports() -> list[Report]:
    """Return the freshest report of each replica that is known in this process."""
    found: dict[str, Report] = {}
    for watched in list(WATCHED):
        for report in watched.reports():
            known = found.get(report.replica_id)
            if known is None or report.age < known.age:
                found[report.replica_id] = report
    return list(found.values())

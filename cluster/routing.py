"""Which replica gets a request: the shorter queue of two among those that say they are ready.

A replica that refuses at once has the shortest queue of all, and a stopped one keeps the queue length it had.
Ray's own router would send both more requests. What replicas report (``Judge.record_routing_stats``) reaches
this router through Ray's controller, about once a second.
"""

from __future__ import annotations

import random
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

STATS_SECONDS: Final = 0.5  # between two reports of a replica
STALE_SECONDS: Final = 3.0  # a report is no longer evidence; also allows for a busy machine
SILENT_SECONDS: Final = 1.0  # a replica has not said that it takes a request sent to it
BEAT: Final = "beat"  # a number in a report that changes every second
CHOICES: Final = 2


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

    def reports(self) -> list[tuple[str, Mapping[str, Any], float]]:
        """Return of each replica its id, its last report and the report's age in seconds."""
        now = self._clock()
        with self._lock:
            return [(str(one), known.stats, now - known.reported) for one, known in self._seen.items()]


class ReadyRouter(FIFOMixin, RequestRouter):
    """Ray makes one in each process that has a handle; ``REQUEST_ROUTERS`` are those of this process."""

    def initialize_state(self, **_: Any) -> None:
        self.watched = Watched()
        ROUTERS.add(self)

    def update_replicas(self, replicas: list[RunningReplica]) -> None:
        self.watched.update({one.replica_id: one.routing_stats for one in replicas})
        super().update_replicas(replicas)

    def on_send_request(self, replica_id: ReplicaID) -> None:
        super().on_send_request(replica_id)
        self.watched.sent(replica_id)

    def on_new_queue_len_info(self, replica_id: ReplicaID, num_ongoing_requests: int) -> None:
        super().on_new_queue_len_info(replica_id, num_ongoing_requests)
        self.watched.responded(replica_id)

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        by_id = {one.replica_id: one for one in candidate_replicas}
        best = self.watched.best(list(by_id))
        return [[by_id[one] for one in random.sample(best, min(CHOICES, len(best)))]] if best else []


#: The routers of this process. The ingress reads from them what the replicas reported last.
ROUTERS: Final[weakref.WeakSet[ReadyRouter]] = weakref.WeakSet()


def reports() -> list[tuple[str, Mapping[str, Any], float]]:
    """Return of each replica known in this process its id, its last report and the report's age in seconds."""
    found: dict[str, tuple[str, Mapping[str, Any], float]] = {}
    for router in list(ROUTERS):
        for one in router.watched.reports():
            if one[0] not in found or one[2] < found[one[0]][2]:
                found[one[0]] = one
    return list(found.values())

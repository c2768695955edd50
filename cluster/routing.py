"""Which replica gets a request: the shorter queue of two among those that say they are ready.

A replica that refuses at once has the shortest queue of all, and a stopped one keeps the queue length it had.
Ray's own router would send both more requests. What they report (``record_routing_stats``) reaches this
router through Ray's controller, about once a second.
"""

from __future__ import annotations

import random
from typing import Any, Final

from ray.serve.request_router import FIFOMixin, PendingRequest, ReplicaID, RequestRouter, RunningReplica

from cluster.readiness import Watched

STATS_SECONDS: Final = 0.5  # between two reports of a replica
CHOICES: Final = 2


class ReadyRouter(FIFOMixin, RequestRouter):
    """Ray makes one in each process that calls replicas."""

    def initialize_state(self, **_: Any) -> None:
        self.watched = Watched()

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

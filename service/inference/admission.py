"""Back-pressure. A request is refused while the queue is full, while it would complete too late, or while a
computation ignores its cancellation. After a refusal the service is not ready until half the queue is done.

A refusal that a new caller would not get is the caller's own limit and leaves the service ready.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from service.contract.causes import Refusal
from service.contract.errors import Busy, CallerBusy
from service.contract.request import Source
from service.inference.background import LANE_SIZE
from service.inference.deferred import Deferred
from service.inference.estimator import LatencyEstimator
from service.inference.jobs import Limits
from service.inference.queue import FairQueue


@dataclass(frozen=True, slots=True)
class Load:
    """The engine's load as one caller meets it.

    Attributes:
        waiting: requests of all callers that wait, deferred ones included.
        ahead: requests ahead of the caller's next one, those being computed included.
        hung_in: seconds until a computation that ignores its cancellation counts as hung, if any.
        own: the waiting requests that count towards the caller's limit.
        ahead_of_new: as ``ahead``, for a caller without identity.
        probe_waits: a probe has its place already.
        background: background rows that wait.
    """

    waiting: int
    ahead: int
    hung_in: float | None
    own: int
    ahead_of_new: int
    probe_waits: bool
    background: int

    @classmethod
    def of(
        cls,
        caller: str,
        queue: FairQueue,
        deferred: Deferred,
        computing: int,
        hung_in: float | None,
        background: int,
    ) -> Load:
        return cls(
            waiting=len(queue) + deferred.places(),
            ahead=queue.ahead_of(caller) + computing,
            hung_in=hung_in,
            own=queue.of(caller) + deferred.places(caller) if caller else 0,
            ahead_of_new=queue.ahead_of("") + computing,
            probe_waits=queue.probe is not None or deferred.probe,
            background=background + deferred.rows,
        )


class Admission:
    """Accepts or refuses requests by the engine's load. Needs the engine's lock."""

    def __init__(self, limits: Limits, estimator: LatencyEstimator) -> None:
        self._limits = limits
        self._estimator = estimator
        self._refused: Refusal | None = None  # the last refusal, until the queue is half empty

    def refusal(self, load: Load, source: Source, count: int, left: float) -> Busy | None:
        """Return why ``count`` requests with ``left`` seconds until their deadline are not accepted now, or
        None. The refusal of a user's is remembered for readiness."""
        if source == "probe":
            return self._stuck(load) or self._another_probe(load)
        if source == "batch":
            return self._stuck(load) or self._lane_full(load, count)
        refusal = self._stuck(load) or self._no_place(load, count) or self._too_late(load, count, left)
        if refusal is not None and not isinstance(refusal, CallerBusy):
            self._refused = Refusal(refusal.code)
        return refusal

    def _stuck(self, load: Load) -> Busy | None:
        if load.hung_in is None:
            return None
        wait = self.retry_after(load)
        return Busy("A computation ignores its cancellation.", retry_after=wait, code=Refusal.STUCK)

    def _another_probe(self, load: Load) -> Busy | None:
        wait = self.retry_after(load)
        return Busy("Another probe is waiting.", retry_after=wait) if load.probe_waits else None

    def _lane_full(self, load: Load, count: int) -> Busy | None:
        if load.background + count <= LANE_SIZE:
            return None
        return Busy(f"{load.background} background rows are already waiting.", retry_after=1.0)

    def _no_place(self, load: Load, count: int) -> Busy | None:
        wait = self.retry_after(load)
        if load.waiting + count > self._limits.queue_size:
            return Busy(f"{load.waiting} requests are already waiting.", retry_after=wait)
        if load.own and load.own + count > self._limits.per_caller:
            return CallerBusy(f"{load.own} requests of this caller are already waiting.", retry_after=wait)
        return None

    def _too_late(self, load: Load, count: int, left: float) -> Busy | None:
        """Refuse requests whose estimated completion is too close to their deadline: otherwise all requests
        of a long queue would time out just before completing."""
        if not self._estimator.too_late(load.ahead, left, count):
            return None
        wait = max(1.0, math.ceil(self._estimator.wait(load.ahead)))
        if self._estimator.too_late(load.ahead_of_new, left, count):
            return Busy("It could not be answered in time.", retry_after=wait, code=Refusal.TOO_LATE)
        return CallerBusy("Too many requests of this caller are already waiting.", retry_after=wait)

    def next(self, load: Load) -> Refusal | None:
        """Return the refusal that a request would get now, or that the last one got; None if accepted."""
        if load.hung_in is not None:
            return Refusal.STUCK
        if load.waiting >= self._limits.queue_size:
            return Refusal.QUEUE_FULL
        if self._estimator.too_late(load.ahead, self._limits.timeout):
            return Refusal.TOO_LATE
        return self._refused

    def relieve(self, load: Load) -> None:
        """Forget the last refusal once there is room and time for twice the load, so that readiness does not
        change with every free place."""
        if self._refused is None or load.hung_in is not None:
            return
        room = 2 * load.waiting <= self._limits.queue_size
        if room and not self._estimator.too_late(2 * load.ahead, self._limits.timeout):
            self._refused = None

    def retry_after(self, load: Load) -> float:
        """Whole seconds until there should be room."""
        wait = load.hung_in if load.hung_in is not None else self._estimator.wait(load.ahead)
        return max(1.0, math.ceil(wait))

"""Back-pressure: a request is refused while the queue is full, while it would be answered too late, or while
a computation does not stop; and once one was refused, the service is not ready until half the queue is done.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from service.contract.causes import Refusal
from service.contract.errors import Busy
from service.contract.request import Request, Source
from service.inference.jobs import LatencyEstimator, Limits


@dataclass(frozen=True, slots=True)
class Load:
    """What the engine has to do at one moment: how many requests are ``waiting``, how many are ``ahead`` of
    the next one (those that are being computed as well), and the device. ``hung_in`` is the time in seconds
    until a computation that does not stop counts as hung, None without one."""

    waiting: int
    ahead: int
    device: str
    hung_in: float | None = None


class Admission:
    """Decides by the engine's load. Guarded by the engine's lock."""

    def __init__(self, limits: Limits, estimator: LatencyEstimator) -> None:
        self._limits = limits
        self._estimator = estimator
        self._refused: Refusal | None = None  # the last refusal, until the queue is half empty

    def refusal(self, load: Load, source: Source, probe_waits: bool) -> Busy | None:
        """Why a request of ``source`` has no room now."""
        wait = self.retry_after(load)
        if load.hung_in is not None:
            return Busy(
                "A computation does not stop and blocks the model.", retry_after=wait, code=Refusal.STUCK
            )
        if source == "probe":
            return Busy("A probe is waiting already.", retry_after=wait) if probe_waits else None
        if load.waiting >= self._limits.queue_size:
            return Busy(f"{load.waiting} requests are waiting already.", retry_after=wait)
        return None

    def too_late(self, load: Load, request: Request, now: float) -> Busy | None:
        """The refusal of a request whose estimated completion is too close to its deadline.

        A queue whose last place is reached at the deadline answers nobody: each request times out just before
        it completes. One with nobody ahead is always tried: a wrong estimate is corrected by nothing else.
        """
        left = request.deadline - now
        if request.source == "probe" or not self._estimator.too_late(load.ahead, load.device, left, request):
            return None
        wait = max(1.0, math.ceil(self._estimator.wait(load.ahead, load.device)))
        return Busy("It could not be answered in time.", retry_after=wait, code=Refusal.TOO_LATE)

    def rejected(self, refusal: Exception, source: Source) -> None:
        """A request was refused: the refusal stands for those to come."""
        if source != "probe" and isinstance(refusal, Busy):
            self._refused = Refusal(refusal.code)

    def next(self, load: Load) -> Refusal | None:
        """What a request that came now would be refused with, or the last one was."""
        if load.hung_in is not None:
            return Refusal.STUCK
        if load.waiting >= self._limits.queue_size:
            return Refusal.QUEUE_FULL
        if self._estimator.too_late(load.ahead, load.device, self._limits.timeout):
            return Refusal.TOO_LATE
        return self._refused

    def relieve(self, load: Load) -> None:
        """Forget the last refusal once there is room and time for as many requests again: readiness that came
        back with each free place would be gone with the next request."""
        if self._refused is None or load.hung_in is not None:
            return
        room = 2 * load.waiting <= self._limits.queue_size
        if room and not self._estimator.too_late(2 * load.ahead, load.device, self._limits.timeout):
            self._refused = None

    def retry_after(self, load: Load) -> float:
        """Whole seconds until there should be room."""
        wait = load.hung_in if load.hung_in is not None else self._estimator.wait(load.ahead, load.device)
        return max(1.0, math.ceil(wait))

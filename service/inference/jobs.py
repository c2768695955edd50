"""The engine's records: a request and its future, what is being computed, answers without a verdict."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from service.contract.causes import BUSY
from service.contract.errors import (
    Busy,
    ComputationStopped,
    DeviceLost,
    InferenceError,
    InputError,
    ServiceError,
    ShuttingDown,
)
from service.contract.request import Request, RequestTiming, Verdict, VerdictFuture
from service.inference.latency import Arrival, Forecast

#: Requests computed together unless told otherwise. A CPU gains little by more, and keeps callers waiting who
#: could have been answered one after the other; a GPU is idle for most of a small batch.
BATCH_ON_CPU: Final = 4
BATCH_ON_GPU: Final = 32


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds, but for ``queue_size`` and ``max_batch`` requests, ``max_batch`` 0 going by the device, and
    ``max_wait_fraction``: the part of a request's time left that may pass on average before its answer.
    ``timeout`` is what a request that comes now would have left."""

    queue_size: int = 32
    timeout: float = 15.0
    max_batch: int = 0
    batch_wait: float = 0.005
    max_wait_fraction: float = 2 / 3
    cancel_grace: float = 5.0
    hang_limit: float = 60.0

    def batch_on(self, device: str) -> int:
        """The most requests to compute together on ``device``."""
        return self.max_batch or (BATCH_ON_CPU if device == "cpu" else BATCH_ON_GPU)


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way through the engine, ``queued`` behind ``ahead`` others; ``began`` is when its
    computation did, in a batch of ``batch``. ``ended`` turns true once, under the engine's lock."""

    request: Request
    queued: float = 0.0
    ahead: int = 0
    began: float | None = None
    batch: int = 0
    future: VerdictFuture = field(default_factory=VerdictFuture)
    ended: bool = False
    computing: bool = False

    def timing(self, now: float) -> RequestTiming:
        """How it went until ``now``."""
        if self.began is None:
            return RequestTiming(self.ahead, now - self.queued)
        return RequestTiming(self.ahead, self.began - self.queued, now - self.began, self.batch)


@dataclass(eq=False, slots=True)
class Batch:
    """What is being computed. ``beat`` is when the computation last passed a cancel point; from
    ``cancelled_at`` on nobody waits for it, and its cancel points raise."""

    jobs: list[Job]
    started: float
    beat: float
    cancelled_at: float | None = None
    orphaned: bool = False
    hung: bool = False

    @property
    def left(self) -> int:
        """How many of its requests are still waited for."""
        return sum(not job.ended for job in self.jobs)

    def check(self, now: float, limits: Limits) -> tuple[bool, bool]:
        """Whether it counts as orphaned, and as hung, from this moment on."""
        overdue = -1.0 if self.cancelled_at is None else now - self.cancelled_at - limits.cancel_grace
        orphaned = overdue >= 0 and not self.orphaned
        hung = overdue >= limits.hang_limit and not self.hung
        self.orphaned |= orphaned
        self.hung |= hung
        return orphaned, hung

    def check_at(self, limits: Limits) -> float | None:
        """When ``check`` is due; None while it need not be."""
        if self.cancelled_at is None or self.hung:
            return None
        orphaned_at = self.cancelled_at + limits.cancel_grace
        return orphaned_at + limits.hang_limit if self.orphaned else orphaned_at

    def hung_in(self, now: float, limits: Limits) -> float | None:
        """Seconds until an orphaned one counts as hung; None while it is not orphaned."""
        if self.cancelled_at is None or not self.orphaned:
            return None
        return self.cancelled_at + limits.cancel_grace + limits.hang_limit - now


class LatencyEstimator:
    """A moving average of the seconds a request takes when its batch's time is shared out. Every request
    counts once: a batch moves the average as far as its requests would have done one by one.

    A ``forecast``, where one was learnt, stands on it. Guarded by the engine's lock."""

    def __init__(self, forecast: Forecast | None = None, max_wait_fraction: float = 1.0) -> None:
        self.seconds: float | None = None
        self._max_wait_fraction = max_wait_fraction
        self._last = 0.0
        self._forecast = forecast

    def expected(self, ahead: int, device: str, request: Request | None = None) -> float | None:
        """Seconds until ``request``, or one of the usual kind, should be answered behind ``ahead`` others: by
        the forecast if there is, else by the average, itself included. None before anything was measured."""
        if self.seconds is None:
            return None
        if self._forecast is None:
            return (ahead + 1) * self.seconds
        return self._forecast.expected.seconds(self._arrival(self._forecast, ahead, device, request))

    def wait(self, ahead: int, device: str) -> float:
        """Seconds until it is worth coming back: with a forecast, until a request behind ``ahead`` others
        should be answered; else until those are."""
        if self._forecast is None:
            return ahead * (self.seconds or 1.0)
        return self.expected(ahead, device) or float(ahead)

    def too_late(self, ahead: int, device: str, left: float, request: Request | None = None) -> bool:
        """Whether ``request``, or one of the usual kind, with ``left`` seconds to its deadline is expected to
        be answered too late: by the forecast even if all went well, by the average with some time to spare.
        """
        if self.seconds is None or not ahead:
            return False
        if self._forecast is None:
            return (ahead + 1) * self.seconds > self._max_wait_fraction * left
        return self._forecast.least.seconds(self._arrival(self._forecast, ahead, device, request)) > left

    def _arrival(self, forecast: Forecast, ahead: int, device: str, request: Request | None) -> Arrival:
        """What ``forecast`` goes by; for no request in particular, that of its median one."""
        assert self.seconds is not None
        chars, megapixels = forecast.chars, forecast.megapixels
        if request is not None:
            width, height = request.size
            chars, megapixels = request.chars, width * height / 1e6
        trend = self._last / self.seconds if self.seconds else 1.0
        return Arrival(ahead, self.seconds, trend, chars, megapixels, float(device.startswith("cuda")))

    def record(self, count: int, seconds: float) -> None:
        """``count`` requests took ``seconds`` together."""
        self._last = seconds
        spent, keep = seconds / count, 0.8**count
        self.seconds = spent if self.seconds is None else keep * self.seconds + (1 - keep) * spent

    def batch_size_for(self, seconds: float, most: int) -> int:
        """How many requests should be done in ``seconds``: from 1, which is tried anyway, to ``most``."""
        if not self.seconds or seconds >= most * self.seconds:
            return most
        return max(1, int(seconds / self.seconds))


def no_verdict(error: ServiceError, request: Request, seconds: float) -> Verdict:
    """The answer to ``request`` that says why there is none."""
    retry_after = error.retry_after if isinstance(error, Busy) else None
    return Verdict.none(
        "busy" if error.code in BUSY else str(error.code),
        code=error.code,
        retry_after=retry_after,
        duration=seconds,
        request_id=request.id,
        error=error,
    )


def stopping() -> ShuttingDown:
    return ShuttingDown("The service is stopping.")


def may_be_of_one(error: Exception) -> bool:
    """Whether an error that ended a batch may be of one request in it, so that the others fare better alone.

    A device or a model that is gone is gone for all of them; memory, a text the prompt cannot take and what
    nobody foresaw may not be.
    """
    if isinstance(error, DeviceLost | ComputationStopped):
        return False
    return isinstance(error, InferenceError | InputError) or not isinstance(error, ServiceError)


def unexpected(error: BaseException) -> InferenceError:
    """A foreign error's own text may hold input, so only its class is told."""
    known = InferenceError(f"Unexpected {type(error).__name__} in the model.")
    known.__cause__ = error
    return known

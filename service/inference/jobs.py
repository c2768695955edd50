"""The engine's records: a queued request with its future, a batch, and answers without a verdict."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from service.contract.causes import BUSY
from service.contract.errors import (
    Busy,
    ComputationStopped,
    DeadlineExceeded,
    DeviceLost,
    InferenceError,
    InputError,
    ServiceError,
    ShuttingDown,
)
from service.contract.events import Listener
from service.contract.request import Request, RequestTiming, Verdict, VerdictFuture

#: Default batch sizes. A larger batch gains little on a CPU and delays answers; a GPU idles in small ones.
BATCH_ON_CPU: Final = 4
BATCH_ON_GPU: Final = 32


def places_per_caller(queue_size: int) -> int:
    """How many of ``queue_size`` places one identified caller may take, so that others find one."""
    return max(1, queue_size * 3 // 4)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The engine's limits; seconds where not said otherwise.

    Attributes:
        queue_size: requests that may wait; of one identified caller three quarters of them.
        timeout: the time limit of a request that arrives now.
        max_batch: requests computed together; 0 chooses by the device.
        batch_wait: how long to wait to fill the next batch.
        max_wait_fraction: a request is refused if its estimate exceeds this fraction of its time left.
        cancel_grace: how long a cancelled computation may run on.
        hang_limit: how much longer until the process counts as hung.
        preemptions: how often a background row may be pre-empted.
    """

    queue_size: int = 48
    timeout: float = 15.0
    max_batch: int = 0
    batch_wait: float = 0.005
    max_wait_fraction: float = 2 / 3
    cancel_grace: float = 5.0
    hang_limit: float = 60.0
    preemptions: int = 3

    @property
    def per_caller(self) -> int:
        return places_per_caller(self.queue_size)

    def batch_on(self, device: str) -> int:
        """The largest batch on ``device``."""
        return self.max_batch or (BATCH_ON_CPU if device == "cpu" else BATCH_ON_GPU)


@dataclass(eq=False, slots=True)
class Job:
    """A request in the engine: ``queued`` behind ``ahead`` others, ``began`` in a batch of ``batch``.
    ``ended`` becomes true once, under the engine's lock. A background row has no ``deadline`` while it waits,
    and has been stopped ``preemptions`` times. ``limit`` is its time limit in seconds."""

    request: Request
    queued: float = 0.0
    ahead: int = 0
    deadline: float = field(init=False)
    limit: float = field(init=False)
    began: float | None = None
    batch: int = 0
    future: VerdictFuture = field(default_factory=VerdictFuture)
    ended: bool = False
    computing: bool = False
    preemptions: int = 0

    def __post_init__(self) -> None:
        self.deadline = math.inf if self.background else self.request.deadline
        self.limit = self.deadline - self.request.arrived

    @property
    def background(self) -> bool:
        return self.request.source == "batch"

    def start(self, now: float, batch: int, timeout: float) -> None:
        """It is computed from ``now`` on; the time limit of a background row begins."""
        self.computing, self.began, self.batch = True, now, batch
        if self.background:
            self.deadline, self.limit = now + timeout, timeout

    def wait_again(self) -> None:
        """It was computed without an answer and is queued again."""
        self.computing, self.began = False, None
        if self.background:
            self.deadline = math.inf

    def timing(self, now: float) -> RequestTiming:
        """Where its time went until ``now``."""
        if self.began is None:
            return RequestTiming(self.ahead, now - self.queued)
        return RequestTiming(self.ahead, self.began - self.queued, now - self.began, self.batch)


@dataclass(eq=False, slots=True)
class Batch:
    """Requests computed together. ``last_progress`` is when the computation last passed a cancel point;
    after ``cancelled_at`` its cancel points raise. A ``preemptible`` one is of background rows; their cancel
    points raise also once it is ``preempted``. ``divided`` counts how often it was halved to isolate a
    failing request. A deferred request is no longer ``computing``, though it is in ``jobs``; if the load that
    it needs ends before the batch does, the batch is ``outdated``."""

    jobs: list[Job]
    started: float
    last_progress: float
    preemptible: bool
    preempted: bool = False
    outdated: bool = False
    divided: int = 0
    cancelled_at: float | None = None
    not_cancelling: bool = False
    hung: bool = False

    @classmethod
    def start(cls, jobs: list[Job], now: float, limits: Limits) -> Batch:
        for job in jobs:
            job.start(now, len(jobs), limits.timeout)
        preemptible = all(job.background and job.preemptions < limits.preemptions for job in jobs)
        return cls(jobs, started=now, last_progress=now, preemptible=preemptible)

    @property
    def background(self) -> bool:
        """Whether it consists of background rows; they are never computed with others."""
        return self.jobs[0].background

    def pass_cancel_point(self, now: float) -> None:
        """Note the progress. Raises ComputationStopped after the cancellation or the pre-emption."""
        self.last_progress = now
        if self.cancelled_at is not None:
            raise ComputationStopped("All requests of this computation have ended.")
        if self.preempted:
            raise ComputationStopped("Another request goes ahead of these background rows.")

    @property
    def left(self) -> int:
        """How many of its requests are still computed."""
        return sum(job.computing and not job.ended for job in self.jobs)

    def check(self, now: float, limits: Limits) -> tuple[bool, bool]:
        """Whether it begins to count as not cancelling, and as hung, at this moment."""
        overdue = -1.0 if self.cancelled_at is None else now - self.cancelled_at - limits.cancel_grace
        not_cancelling = overdue >= 0 and not self.not_cancelling
        hung = overdue >= limits.hang_limit and not self.hung
        self.not_cancelling |= not_cancelling
        self.hung |= hung
        return not_cancelling, hung

    def check_at(self, limits: Limits) -> float | None:
        """When ``check`` is due next; None while it is not."""
        if self.cancelled_at is None or self.hung:
            return None
        grace_ends = self.cancelled_at + limits.cancel_grace
        return grace_ends + limits.hang_limit if self.not_cancelling else grace_ends

    def hung_in(self, now: float, limits: Limits) -> float | None:
        """Seconds until it counts as hung; None while it is not known to ignore its cancellation."""
        if self.cancelled_at is None or not self.not_cancelling:
            return None
        return self.cancelled_at + limits.cancel_grace + limits.hang_limit - now


def no_verdict(error: ServiceError, request: Request, now: float) -> Verdict:
    """Return the answer to ``request`` at ``now`` (monotonic) that says why it has no verdict."""
    return Verdict.none(
        "busy" if error.code in BUSY else str(error.code),
        code=error.code,
        retry_after=error.retry_after if isinstance(error, Busy) else None,
        duration=request.age(now),
        request_id=request.id,
        error=error,
    )


def refuse(job: Job, refusal: ServiceError, events: Listener, now: float) -> None:
    """Answer a request that was not accepted."""
    if job.future.set_running_or_notify_cancel():
        job.future.set_result(no_verdict(refusal, job.request, now))
    events.refused(job.request, refusal, job.request.age(now))


def expired(job: Job) -> DeadlineExceeded:
    return DeadlineExceeded(f"No answer within {job.limit:g} s.", seconds=job.limit)


def stopping() -> ShuttingDown:
    return ShuttingDown("The service is stopping.")


def may_be_of_one(error: Exception) -> bool:
    """Whether one request of a batch may have caused ``error``, so that the others may succeed without it.

    A lost device or model fails all of them; memory, a text that the prompt cannot take or an unknown error
    may not.
    """
    if isinstance(error, DeviceLost | ComputationStopped):
        return False
    return isinstance(error, InferenceError | InputError) or not isinstance(error, ServiceError)


def unexpected(error: BaseException) -> InferenceError:
    """Wrap a foreign error. Its text may quote input, so only its class is named."""
    known = InferenceError(f"Unexpected {type(error).__name__} in the model.")
    known.__cause__ = error
    return known

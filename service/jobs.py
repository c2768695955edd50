"""The engine's records: a request and its future, what is being computed, answers without a verdict."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Literal

from service.errors import Busy, InferenceError, ServiceError, ShuttingDown
from service.request import Course, Request, Verdict

Outcome = Literal["answered", "timeout", "error", "abandoned", "stopping"]
Counter = Literal[Outcome, "accepted", "rejected", "orphaned"]


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Seconds, but for ``queue_size`` requests."""

    queue_size: int = 32
    cancel_grace: float = 5.0
    hang_limit: float = 60.0


@dataclass(eq=False, slots=True)
class Job:
    """A request on its way through the engine, ``queued`` behind ``ahead`` others; ``began`` is when its
    computation did, in a batch of ``batch``. ``ended`` turns true once, under the engine's lock."""

    request: Request
    queued: float = 0.0
    ahead: int = 0
    began: float | None = None
    batch: int = 0
    future: Future[Verdict] = field(default_factory=Future)
    ended: bool = False
    computing: bool = False

    def course(self, now: float) -> Course:
        """How it went until ``now``."""
        if self.began is None:
            return Course(self.ahead, now - self.queued)
        return Course(self.ahead, self.began - self.queued, now - self.began, self.batch)


@dataclass(eq=False, slots=True)
class Batch:
    """What is being computed. ``beat`` is when the computation last passed a cancel point; from
    ``unwanted_since`` on nobody waits for it, and its cancel points raise."""

    jobs: list[Job]
    started: float
    beat: float
    unwanted_since: float | None = None
    orphaned: bool = False
    hung: bool = False


def no_verdict(error: ServiceError, request: Request, seconds: float) -> Verdict:
    """The answer to ``request`` that says why there is none."""
    retry_after = error.retry_after if isinstance(error, Busy) else None
    return Verdict.none(
        error.code, retry_after=retry_after, duration=seconds, request_id=request.id, error=error
    )


def stopping() -> ShuttingDown:
    return ShuttingDown("The service is stopping.")


def unexpected(error: BaseException) -> InferenceError:
    """A foreign error's own text may hold input, so only its class is told."""
    known = InferenceError(f"Unexpected {type(error).__name__} in the model.")
    known.__cause__ = error
    return known

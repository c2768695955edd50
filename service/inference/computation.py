"""Computing a batch: ask the model, answer each request, and isolate one that fails the others."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from service.contract.causes import Outcome
from service.contract.errors import ComputationStopped, DeviceLost, InferenceError, ServiceError
from service.contract.events import Listener, Stage
from service.contract.protocols import CancelPoint, Predictor
from service.contract.request import Verdict
from service.inference.jobs import Batch, Job, expired, may_be_of_one, no_verdict, unexpected


class End(Protocol):
    """Ends a request with its answer. False if it has ended before."""

    def __call__(self, job: Job, outcome: Outcome, verdict: Verdict, stage: Stage | None = None) -> bool: ...


class Computation:
    """What the engine thread does with a batch, with no lock held.

    ``measure`` gets how many requests were computed together in how many seconds, before any of them is
    answered: else a caller that asks again would be counted twice. ``defer`` takes a request whose answer
    needs weights that are being loaded. ``verdict_of`` is ``Verdict.of``, with the model's calibration.
    """

    def __init__(
        self,
        predictor: Predictor,
        events: Listener,
        *,
        end: End,
        defer: Callable[[Job], None],
        measure: Callable[[int, float], None],
        on_success: Callable[[float], None],
        on_fatal: Callable[[ServiceError], None],
        verdict_of: Callable[..., Verdict],
        clock: Callable[[], float],
    ) -> None:
        self._predictor = predictor
        self._events = events
        self._end = end
        self._defer = defer
        self._measure = measure
        self._on_success = on_success
        self._on_fatal = on_fatal
        self._verdict_of = verdict_of
        self._clock = clock

    def run(self, batch: Batch) -> None:
        """Answer every job of the batch, unless it is pre-empted. If one request may have failed it for all,
        try halves, and halves of those, until that request fails alone."""

        def cancel_point() -> None:
            batch.pass_cancel_point(self._clock())

        parts = deque([batch.jobs])
        while parts:
            if not (jobs := self._in_time(parts.popleft())):
                continue
            began = self._clock()
            try:
                results = self._judge(jobs, cancel_point)
            except Exception as error:
                if len(jobs) > 1 and may_be_of_one(error):
                    batch.divided += 1
                    half = len(jobs) // 2
                    parts.extendleft((jobs[half:], jobs[:half]))
                    continue
                if isinstance(error, ComputationStopped):
                    if batch.preempted:
                        return
                    self._record(batch, len(jobs), began)  # a lower bound of its duration
                self._fail(jobs, error)
            else:
                self._record(batch, len(jobs), began)
                self._answer(jobs, results)

    def _in_time(self, jobs: Sequence[Job]) -> list[Job]:
        """Answer the jobs that have expired, and return those that have not ended."""
        now = self._clock()
        for job in jobs:
            if job.deadline <= now:
                self._end(job, Outcome.TIMEOUT, no_verdict(expired(job), job.request, now), "waiting")
        return [job for job in jobs if not job.ended]

    def _judge(self, jobs: Sequence[Job], cancel_point: CancelPoint) -> Sequence[Mapping[str, float] | None]:
        self._events.batched([job.request for job in jobs])
        results = self._predictor.judge([job.request.pair for job in jobs], cancel_point)
        if len(results) != len(jobs):
            raise InferenceError(f"The model gave {len(results)} answers to {len(jobs)} questions.")
        return results

    def _record(self, batch: Batch, count: int, began: float) -> None:
        """Background rows are no measure of a caller's wait, since their batches are of other sizes."""
        if not batch.background:
            self._measure(count, self._clock() - began)

    def _answer(self, jobs: Sequence[Job], results: Sequence[Mapping[str, float] | None]) -> None:
        now = self._clock()
        device, dtype = self._predictor.device, self._predictor.dtype
        for job, scores in zip(jobs, results, strict=True):
            if scores is None:
                self._defer(job)
                continue
            age, name = job.request.age(self._clock()), job.request.id
            try:
                verdict = self._verdict_of(scores, duration=age, device=device, dtype=dtype, request_id=name)
            except ServiceError as error:
                self._fail([job], error)
                continue
            if job.request.source != "probe" and not job.ended:
                self._on_success(now)  # before the answer: its receiver may read the health at once
            if not self._end(job, Outcome.ANSWERED, verdict):
                self._events.late(job.request, "answer", age)

    def _fail(self, jobs: Sequence[Job], error: Exception) -> None:
        known = error if isinstance(error, ServiceError) else unexpected(error)
        for job in jobs:
            now = self._clock()
            if not self._end(job, Outcome.ERROR, no_verdict(known, job.request, now)):
                outcome = "stopped" if isinstance(error, ComputationStopped) else type(error).__name__
                self._events.late(job.request, outcome, job.request.age(now))
        if known is not error:
            self._events.broken("unmapped exception from the model", error)
        if isinstance(error, DeviceLost):
            self._on_fatal(error)

"""The engine: one thread owns the model, all others submit requests and wait for futures.

The engine thread computes, the timer thread enforces deadlines, so a request is answered on time even in the
middle of a computation. Waiting requests are computed together as a batch; each keeps its own deadline and
its own error. When all requests of a batch have been answered or abandoned, its computation is cancelled: the
next cancel point raises. If it still runs after ``cancel_grace`` it is *not cancelling*: new requests are
refused at once, and after another ``hang_limit`` seconds the timer calls ``on_hung``.

Background rows wait in a lane of their own and are computed while nothing else waits. Any other request that
arrives meanwhile pre-empts them: the next cancel point raises and they go back to the front of the lane.

A request whose answer needs weights that are not loaded is deferred: others are computed until the load has
ended, then it is computed again, ahead of them.

Every accepted request ends once: ``_end`` is the only exit, the first call wins, later results are logged.
"""

from __future__ import annotations

import functools
import itertools
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence

from service.contract.causes import Outcome, Refusal
from service.contract.errors import (
    Abandoned,
    ServiceError,
)
from service.contract.events import Listener, Stage
from service.contract.protocols import Predictor
from service.contract.request import QueueEstimate, Request, Source, Verdict, VerdictFuture
from service.contract.status import Activity
from service.contract.times import STOP_ENGINE
from service.inference.admission import Admission, Load
from service.inference.background import Lane
from service.inference.computation import Computation
from service.inference.deferred import Deferred
from service.inference.estimator import LatencyEstimator
from service.inference.jobs import (
    Batch,
    Job,
    Limits,
    expired,
    no_verdict,
    refuse,
    stopping,
    unexpected,
)
from service.inference.queue import FairQueue
from service.inference.timer import Timer

__all__ = ["Engine", "Limits"]


class Engine:
    """A bounded queue, a computing thread and a timer thread. ``step`` and ``tick`` are their loop bodies and
    can be called without the threads."""

    def __init__(
        self,
        predictor: Predictor,
        events: Listener,
        limits: Limits,
        *,
        on_success: Callable[[float], None] = lambda now: None,
        on_fatal: Callable[[ServiceError], None] = lambda error: None,
        on_hung: Callable[[Sequence[Request], float], None] = lambda requests, seconds: None,
        verdict_of: Callable[..., Verdict] = Verdict.of,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._predictor = predictor
        self._events = events
        self._limits = limits
        self._on_hung = on_hung
        self._clock = clock
        # One lock guards everything below. It is never held while computing, logging or resolving a future.
        self._lock = threading.Lock()
        self._work = threading.Condition(self._lock)
        self._idle = threading.Condition(self._lock)
        self._waiting = FairQueue()
        self._background = Lane()
        self._deferred = Deferred()
        self._batch: Batch | None = None
        self._refusing = False
        self._paused = False
        self._closed = False
        self._dead = False
        self._count: Counter[str] = Counter()
        self._estimator = LatencyEstimator(limits.max_wait_fraction)
        self._admission = Admission(limits, self._estimator)
        self._expected_batch = 0  # callers answered together by the last batch, if more than one
        self._batch_wait_until = 0.0
        self._computation = Computation(
            predictor,
            events,
            end=self._end,
            defer=self._defer,
            measure=self._measure,
            on_success=on_success,
            on_fatal=on_fatal,
            verdict_of=verdict_of,
            clock=clock,
        )
        self._timer = Timer(
            self._lock,
            tick=self.tick,
            due=self._next_alarm,
            ended=lambda: self._closed and self._batch is None,
            events=events,
            clock=clock,
        )
        self._threads: list[threading.Thread] = []

    # ---- for callers -------------------------------------------------------------------------------------

    def start(self) -> None:
        self._threads = [
            threading.Thread(target=self._run, name="engine", daemon=True),
            threading.Thread(target=self._timer.run, name="deadlines", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, request: Request, future: VerdictFuture | None = None) -> VerdictFuture:
        """Queue ``request`` and return ``future`` (a new one by default), which gets a verdict, never an
        exception. A refused request is answered at once; cancelling the future abandons it."""
        future = future if future is not None else VerdictFuture()
        self.submit_group([request], [future])
        return future

    def submit_group(self, requests: Sequence[Request], futures: Sequence[VerdictFuture]) -> None:
        """Queue requests of one call, which have caller, source and deadline in common. They are accepted or
        refused together, and computed in one batch, unless they are background rows."""
        now = self._clock()
        jobs = [Job(request, now, future=future) for request, future in zip(requests, futures, strict=True)]
        with self._lock:
            refusal = self._accept(jobs, now)
        for job in jobs:
            if refusal is None:
                job.future.add_done_callback(functools.partial(self._abandon, job))
                continue
            refuse(job, refusal, self._events, self._clock())

    def _accept(self, jobs: Sequence[Job], now: float) -> ServiceError | None:
        """Queue ``jobs``, or return why not. Needs the lock."""
        first, count = jobs[0].request, len(jobs)
        load = self._load(first.caller)
        if refusal := self._refuse(load, first.source, count, first.deadline - now):
            return refusal
        self._count["accepted"] += count
        self._work.notify()
        if jobs[0].background:
            self._background.append(jobs)
            return None
        estimate = QueueEstimate(load.ahead, self._estimator.expected(load.ahead + count - 1))
        for job in jobs:
            job.future.queue_estimate = estimate
            job.ahead = 0 if job.request.source == "probe" else load.ahead
        self._waiting.append(jobs)
        if (batch := self._batch) is not None and batch.preemptible:
            batch.preempted = True  # its next cancel point raises
        self._timer.changed.notify()
        return None

    def check(self, source: Source, caller: str = "", count: int = 1) -> None:
        """Raise the refusal that ``count`` requests would get now, before any work goes into them."""
        with self._lock:
            if refusal := self._refuse(self._load(caller), source, count):
                raise refusal

    def pause(self) -> None:
        """Start no computation until ``resume``. Requests keep their places and deadlines."""
        with self._lock:
            self._paused = True

    def resume(self) -> None:
        with self._lock:
            self._paused = False
            self._work.notify_all()

    def retry_deferred(self) -> None:
        """A load has ended: compute the deferred requests again. Any thread may call it."""
        with self._lock:
            if self._batch is not None:
                self._batch.outdated = True
            self._put_back(self._deferred.take())

    def keep_heartbeat(self, beat: Callable[[], None]) -> None:
        """Call ``beat`` every second from the timer thread, with no lock held."""
        self._timer.keep_heartbeat(beat)

    def stop(self, grace: float) -> bool:
        """Refuse new requests, cancel background rows, answer the other accepted ones for ``grace`` seconds,
        then cancel the rest. True when both threads have ended."""
        with self._lock:
            self._refusing = True
            rows = [job for job in self._pending() if job.background]
        self._end_stopping(rows)
        with self._lock:
            drained = self._clock() + grace
            while (left := drained - self._clock()) > 0 and self._threads and self._pending():
                self._idle.wait(left)
            jobs = self._pending()
        self._end_stopping(jobs)
        with self._lock:
            self._closed = True
            self._work.notify_all()
            self._timer.changed.notify()
        end = time.monotonic() + min(self._limits.cancel_grace, STOP_ENGINE)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _end_stopping(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            self._end(job, Outcome.STOPPING, no_verdict(stopping(), job.request, self._clock()))

    def activity(self) -> Activity:
        """What the engine is doing now."""
        with self._lock:
            now, batch, load = self._clock(), self._batch, self._load()
            return Activity(
                alive=not self._dead and all(thread.is_alive() for thread in self._threads),
                depth=load.waiting,
                capacity=self._limits.queue_size,
                running=batch is not None,
                computing=batch.left if batch else 0,
                running_for=now - batch.started if batch else 0.0,
                progress_age=now - batch.last_progress if batch else None,
                not_cancelling=batch is not None and batch.not_cancelling,
                hung=batch is not None and batch.hung,
                background=load.background,
                counts=dict(self._count),
                service_seconds=self._estimator.seconds,
                expected_seconds=self._estimator.expected(load.ahead),
                retry_after=self._admission.retry_after(load),
                refusal=Refusal.STOPPING if self._refusing else self._admission.next(load),
            )

    # ---- the engine thread -------------------------------------------------------------------------------

    def step(self, block: bool = False) -> bool:
        """Compute one batch. False when there is nothing to do, or, with ``block``, when the engine is
        closed."""
        with self._lock:
            if block:
                self._await_work()
            if self._closed or self._paused or not (jobs := self._take()):
                return False
            now = self._clock()
            batch = self._batch = Batch.start(jobs, now, self._limits)
            self._expected_batch = 0
            if batch.background:  # its deadline has just been set
                self._timer.changed.notify()
        try:
            self._computation.run(batch)
        except BaseException as error:
            self._give_up(jobs, error)
            raise
        finally:
            self._close(batch)
        return True

    def _close(self, batch: Batch) -> None:
        """The computation has ended. What a pre-emption left unanswered goes back to its lane."""
        with self._lock:
            self._batch = None
            left = [job for job in batch.jobs if batch.preempted and job.computing and not job.ended]
            if left:
                self._put_back(left)
                for job in left:
                    job.preemptions += 1
                self._count["preempted"] += len(left)
            if batch.divided:
                self._count["divided"] += batch.divided
            self._admission.relieve(self._load())
            if not batch.background:
                self._batch_wait_until = self._clock() + self._limits.batch_wait
            self._idle.notify_all()
            self._timer.changed.notify()
        if left:
            self._events.preempted([job.request for job in left])

    def _defer(self, job: Job) -> None:
        with self._lock:
            batch = self._batch
            if job.ended or batch is None:
                return
            if batch.outdated:  # the load ended while the batch was computed
                self._put_back([job])
            else:
                job.computing = False
                self._deferred.append(job)

    def _put_back(self, jobs: Sequence[Job]) -> None:
        """Queue jobs that were computed without an answer ahead of all others. Needs the lock."""
        for job in jobs:
            job.wait_again()
        self._background.put_back([job for job in jobs if job.background])
        self._waiting.put_back([job for job in jobs if not job.background])
        self._work.notify()

    def _await_work(self) -> None:
        """Return when there is work, or the engine is closed. Needs the lock.

        Callers answered together tend to ask again together: only after such a batch the first of them waits
        a moment for the others. A single caller never waits. A background row waits for that moment after
        any other batch, since the next call may follow at once; after a background batch it does not.
        """
        while not self._closed:
            left = self._batch_wait_until - self._clock()
            due = left <= 0 or self._refusing or len(self._waiting) >= self._expected_batch
            ready = self._waiting.probe is not None or (self._waiting and due)
            if not self._paused and (ready or (self._background and left <= 0)):
                return
            anything = self._waiting or self._background
            self._work.wait(left if anything and not self._paused else None)

    def _take(self) -> list[Job]:
        """Return the next batch; of background rows only if nothing else waits. Its size is what should
        complete in half the time that its most urgent request has left, as all are answered together. Needs
        the lock."""
        most = self._limits.batch_on(self._predictor.device)
        jobs = list(itertools.chain.from_iterable(self._waiting.next(most)))
        if not jobs:
            return self._background.take(self._estimator.batch_size_for(self._limits.timeout / 2, most))
        left = min(job.deadline for job in jobs) - self._clock()
        return self._waiting.take(self._estimator.batch_size_for(left / 2, most))

    def _measure(self, count: int, seconds: float) -> None:
        with self._lock:
            self._estimator.record(count, seconds)
            self._expected_batch = count + len(self._waiting) if count > 1 else 0

    def _run(self) -> None:
        try:
            while self.step(block=True):
                pass
        except BaseException as error:
            # Only a bug gets here. Fail all pending requests, since this thread is exiting.
            with self._lock:
                self._dead = self._refusing = True
                jobs = self._pending()
            self._give_up(jobs, error)
            self._events.broken("the engine thread died", error)

    def _give_up(self, jobs: list[Job], error: BaseException) -> None:
        for job in jobs:
            self._end(job, Outcome.ERROR, no_verdict(unexpected(error), job.request, self._clock()))

    # ---- the timer thread --------------------------------------------------------------------------------

    def tick(self) -> None:
        """Answer expired requests, and report a computation that ignores its cancellation."""
        now = self._clock()
        with self._lock:
            due = [job for job in self._pending() if job.deadline <= now]
        for job in due:
            if job.deadline <= now:  # not pre-empted meanwhile
                verdict = no_verdict(expired(job), job.request, now)
                self._end(job, Outcome.TIMEOUT, verdict, "computing" if job.computing else "waiting")
        with self._lock:
            if (batch := self._batch) is None:
                return
            not_cancelling, hung = batch.check(now, self._limits)
            if not_cancelling:
                self._count["orphaned"] += 1
        requests = [job.request for job in batch.jobs]
        if not_cancelling:
            self._events.not_cancelling(requests, now - batch.started)
        if hung:
            self._events.hung(requests, now - batch.started)
            self._on_hung(requests, now - batch.started)

    def _next_alarm(self) -> float:
        """When the next tick is due; infinity if nothing is pending. Needs the lock."""
        times = [job.deadline for job in self._pending()]
        if self._batch is not None and (check_at := self._batch.check_at(self._limits)) is not None:
            times.append(check_at)
        return min(times, default=math.inf)

    # ---- shared ------------------------------------------------------------------------------------------

    def _end(self, job: Job, outcome: Outcome, verdict: Verdict, stage: Stage | None = None) -> bool:
        """End an accepted request. False if it has ended before."""
        with self._lock:
            if job.ended:
                return False
            job.ended = True
            self._count[outcome] += 1
            (self._background if job.background else self._waiting).remove(job)
            self._deferred.remove(job)
            batch = self._batch
            if batch is not None and batch.cancelled_at is None and not batch.left:
                batch.cancelled_at = self._clock()  # from now on its cancel points raise
                self._timer.changed.notify()
            self._admission.relieve(self._load())
            if not self._pending():
                self._idle.notify_all()
        job.future.timing = timing = job.timing(self._clock())
        if job.future.set_running_or_notify_cancel():
            job.future.set_result(verdict)
        self._events.ended(job.request, verdict, timing, stage)
        return True

    def _abandon(self, job: Job, future: VerdictFuture) -> None:
        """If the caller cancelled its ``future``, remove the request, or cancel its computation."""
        if future.cancelled():
            self._end(job, Outcome.ABANDONED, no_verdict(Abandoned(), job.request, self._clock()))

    def _refuse(self, load: Load, source: Source, count: int, left: float = math.inf) -> ServiceError | None:
        """Return, and count, the refusal of requests with ``left`` seconds, if any. Needs the lock."""
        refusal: ServiceError | None = (
            stopping() if self._refusing else self._admission.refusal(load, source, count, left)
        )
        if refusal is not None:
            self._count["rejected"] += count
        return refusal

    def _load(self, caller: str = "") -> Load:
        """The load as ``caller`` meets it, by default a caller without identity. Needs the lock."""
        batch = self._batch
        hung_in = batch.hung_in(self._clock(), self._limits) if batch else None
        computing = batch.left if batch and not batch.preemptible else 0
        return Load.of(caller, self._waiting, self._deferred, computing, hung_in, len(self._background))

    def _pending(self) -> list[Job]:
        """Accepted requests that have not ended. Needs the lock."""
        computing = self._batch.jobs if self._batch else ()
        jobs = [*self._waiting, *self._background, *self._deferred, *computing]
        return [job for job in dict.fromkeys(jobs) if not job.ended]

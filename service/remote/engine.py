"""The engine behind --engine: queues nothing and computes nothing, but sends each group of requests on as one
call and waits for its answer.

One thread runs an event loop with the calls, the deadlines and the watch. A cancelled request ends its call,
and by that the computation; a request that reaches its deadline does the same. As in
service.inference.engine, every accepted request ends once: ``_end`` is the only exit.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import anyio

from service.contract.causes import Denial, InputCode, Outcome, Refusal
from service.contract.errors import (
    Abandoned,
    Busy,
    CallerBusy,
    DeadlineExceeded,
    InferenceError,
    InputError,
    InvalidAnswer,
    KeyRefused,
    NotReady,
    ServiceError,
    Unreachable,
)
from service.contract.events import Listener, Stage
from service.contract.log_line import fields
from service.contract.request import Request, RequestTiming, Source, Verdict, VerdictFuture
from service.contract.status import Activity, Phase, Remote
from service.contract.times import STOP_ENGINE
from service.engine_key import EngineKey
from service.http.log_limit import LogLimit
from service.inference.jobs import Job, Limits, expired, no_verdict, refuse, stopping, unexpected
from service.remote import picture
from service.remote.answers import Answer, error_of, verdicts_of
from service.remote.call import Call
from service.remote.client import Client
from service.remote.watch import Watch

BEAT_SECONDS: Final = 1.0
FULL_SECONDS: Final = 1.0  # until a place should be free
LOG_SECONDS: Final = 60.0  # between two lines about answers that an operator must act on
SPARE_CONNECTIONS: Final = 2  # for the watch and a probe
log = logging.getLogger(__name__)


class RemoteEngine:
    """``on_change`` gets what the engine says of itself, ``on_success`` the time of each verdict for a
    user."""

    def __init__(
        self,
        url: str,
        key: EngineKey | None,
        events: Listener,
        limits: Limits,
        *,
        on_change: Callable[[Remote], None] = lambda engine: None,
        on_success: Callable[[float], None] = lambda now: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = Client(url, limits.queue_size + SPARE_CONNECTIONS, key)
        self._events = events
        self._limits = limits
        self._on_success = on_success
        self._clock = clock
        self._watch = Watch(self._client, url, on_change)
        self._beat: Callable[[], None] = lambda: None
        self._answers = LogLimit(LOG_SECONDS)
        self._calls: set[Call] = set()  # for the loop's thread only
        # One lock guards everything below. It is never held while logging or resolving a future.
        self._lock = threading.Lock()
        self._idle = threading.Condition(self._lock)
        self._pending: dict[Job, None] = {}
        self._refusing = False
        self._count: Counter[str] = Counter()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._closing = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # ---- for callers -------------------------------------------------------------------------------------

    def start(self) -> None:
        with self._lock:
            self._loop = self._runner.get_loop()
        self._thread.start()

    def wait_first(self, seconds: float) -> None:
        """Wait until the engine was asked what it serves."""
        self._watch.wait_first(seconds)

    def submit_group(self, requests: Sequence[Request], futures: Sequence[VerdictFuture]) -> None:
        """Send requests of one call on, which have caller, source and deadline in common. They are accepted
        or refused together. A future gets a verdict, or the InputError that the engine answers."""
        now = self._clock()
        jobs = [Job(request, now, future=future) for request, future in zip(requests, futures, strict=True)]
        with self._lock:
            refusal = self._refuse(requests[0].source, requests[0].caller, len(jobs))
            if refusal is None and self._loop is not None:
                self._count["accepted"] += len(jobs)
                self._pending.update(dict.fromkeys(jobs))
                (call := Call(self._loop, self._calls)).start(functools.partial(self._send, jobs))
        if refusal is not None:
            picture.close(requests[0])
            for job in jobs:
                refuse(job, refusal, self._events, self._clock())
            return
        for job in jobs:
            job.future.add_done_callback(functools.partial(self._abandon, job, jobs, call.cancel))

    def check(self, source: Source, caller: str = "", count: int = 1) -> None:
        """Raise the refusal that ``count`` requests would get now, before any work goes into them."""
        with self._lock:
            if refusal := self._refuse(source, caller, count):
                raise refusal

    def pause(self) -> None:
        """There is nothing to reload here."""

    def resume(self) -> None:
        """There is nothing to reload here."""

    def keep_heartbeat(self, beat: Callable[[], None]) -> None:
        """Call ``beat`` every second from the engine's thread."""
        self._beat = beat

    def stop(self, grace: float) -> bool:
        """Refuse new requests, wait for the answers of accepted ones for ``grace`` seconds, then cancel the
        rest. True when the thread has ended."""
        with self._lock:
            self._refusing = True
            drained = self._clock() + grace
            while (left := drained - self._clock()) > 0 and self._thread.is_alive() and self._pending:
                self._idle.wait(left)
            jobs, loop = list(self._pending), self._loop
        self._end(jobs, [no_verdict(stopping(), job.request, self._clock()) for job in jobs])
        if loop is None:
            return True
        with suppress(RuntimeError):  # closed
            loop.call_soon_threadsafe(self._closing.set)
        self._thread.join(STOP_ENGINE)
        return not self._thread.is_alive()

    def activity(self) -> Activity:
        """What is on its way now: all of it waits in or for the engine."""
        with self._lock:
            depth, started = len(self._pending), self._loop is not None
            return Activity(
                alive=not started or self._thread.is_alive(),
                depth=depth,
                capacity=self._limits.queue_size,
                running=depth > 0,
                counts=dict(self._count),
                retry_after=FULL_SECONDS,
                refusal=self._next_refusal(),
            )

    # ---- the event loop ----------------------------------------------------------------------------------

    def _run(self) -> None:
        with self._runner:
            try:
                self._runner.run(self._main())
            except BaseException as error:
                # Only a bug gets here. Fail all pending requests, since this thread is exiting.
                with self._lock:
                    self._refusing, jobs = True, list(self._pending)
                now = self._clock()
                self._end(jobs, [no_verdict(unexpected(error), job.request, now) for job in jobs])
                self._events.broken("the engine thread died", error)

    async def _main(self) -> None:
        """Return when the engine is stopped and every connection is closed."""
        async with self._client.opened():
            running = (self._closing.wait(), self._watch.run(), self._keep_beating())
            tasks = [asyncio.ensure_future(one) for one in running]
            ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # Only these: anyio's own tasks must be cancelled by anyio.
            for task in tasks:
                task.cancel()
            calls = list(self._calls)
            for call in calls:
                call.cancel_now()
            left = [*tasks, *(call.task for call in calls if call.task is not None)]
            await asyncio.gather(*left, return_exceptions=True)
            for task in ended:
                task.result()
        await asyncio.sleep(0)  # a transport is closed in the next round of the loop

    async def _keep_beating(self) -> None:
        while True:
            self._beat()
            await asyncio.sleep(BEAT_SECONDS)

    async def _send(self, jobs: Sequence[Job]) -> None:
        """Send one call and end its requests."""
        began = self._clock()
        for job in jobs:
            job.began = began
        try:
            verdicts, answer = await self._judged(jobs)
        finally:
            picture.close(jobs[0].request)
        self._end(jobs, verdicts, _timing(jobs, answer, self._clock()))

    async def _judged(self, jobs: Sequence[Job]) -> tuple[Sequence[Verdict], Answer | None]:
        requests = [job.request for job in jobs]
        answer: Answer | None = None
        error: ServiceError | None = None
        verdicts: Sequence[Verdict] = ()
        try:
            with anyio.fail_after(jobs[0].deadline - self._clock()):  # as service.remote.call does
                answer = await self._client.judge(requests)
                if requests[0].source == "probe" and answer.code == InputCode.PREMISE_NEEDED:
                    answer = await self._client.judge([picture.with_premise(one) for one in requests])
            if answer.status != 200:
                raise error_of(answer)
            verdicts = verdicts_of(answer, requests, self._watch.engine, self._clock())
        except TimeoutError:
            error = expired(jobs[0])
        except ServiceError as known:
            error = known
        except Exception as failure:  # a bug
            error = unexpected(failure)
        if error is not None:
            self._report(error, answer)
            if requests[0].source == "probe" and _limited(error, answer):
                error = InferenceError("The limit of this server's key is reached.")
            verdicts = [no_verdict(error, request, self._clock()) for request in requests]
        elif requests[0].of_user:
            self._on_success(self._clock())
        return verdicts, answer

    def _report(self, error: ServiceError, answer: Answer | None) -> None:
        """Log what an operator must act on, and look at the engine soon."""
        if isinstance(error, Unreachable):
            self._watch.look_soon()
        limited = _limited(error, answer)
        if not isinstance(error, KeyRefused | InvalidAnswer) and not limited:
            return
        if answer is None or (more := self._answers.admit()) is None:
            return
        remedy = "Raise the limits of this server's key in the engine's --api-keys-file."
        log.error(
            "ENGINE_ANSWER%s",
            fields(
                status=answer.status,
                code=answer.code or "none",
                msg=error.message,
                remedy=remedy if limited else error.remedy,
                more=more or None,
            ),
        )

    # ---- shared ------------------------------------------------------------------------------------------

    def _end(
        self, jobs: Sequence[Job], verdicts: Sequence[Verdict], timing: RequestTiming | None = None
    ) -> None:
        """End accepted requests, unless they have ended before: all of them at once, since the first error
        may make the caller cancel the others."""
        with self._lock:
            ended = [pair for pair in zip(jobs, verdicts, strict=True) if not pair[0].ended]
            for job, verdict in ended:
                job.ended = True
                self._count[_outcome(verdict)] += 1
                self._pending.pop(job, None)
            if not self._pending:
                self._idle.notify_all()
        for job, verdict in ended:
            self._answer(job, verdict, timing or job.timing(self._clock()))

    def _answer(self, job: Job, verdict: Verdict, timing: RequestTiming) -> None:
        error, job.future.timing = verdict.error, timing
        if job.future.set_running_or_notify_cancel():
            if isinstance(error, InputError):
                job.future.set_exception(error)
            else:
                job.future.set_result(verdict)
        if isinstance(error, InputError | Busy | NotReady | Unreachable):
            self._events.refused(job.request, error, verdict.duration)
        else:
            stage: Stage | None = "computing" if isinstance(error, DeadlineExceeded) else None
            self._events.ended(job.request, verdict, timing, stage)

    def _abandon(
        self, job: Job, jobs: Sequence[Job], cancel: Callable[[], object], future: VerdictFuture
    ) -> None:
        """If the caller cancelled its ``future``, end the request; if it cancelled all, the call."""
        if not future.cancelled():
            return
        self._end([job], [no_verdict(Abandoned(), job.request, self._clock())])
        if all(one.ended for one in jobs):
            cancel()

    def _refuse(self, source: Source, caller: str, count: int) -> ServiceError | None:
        """Return, and count, the refusal of requests, if any. Needs the lock."""
        refusal = self._refusal(source, caller, count)
        if refusal is not None:
            self._count["rejected"] += count
        return refusal

    def _refusal(self, source: Source, caller: str, count: int) -> ServiceError | None:
        if self._refusing or self._loop is None:
            return stopping()
        if source == "probe":  # shows whether the engine answers
            return None
        engine = self._watch.engine
        if engine.problem == Refusal.NO_INSTANCE:
            return Unreachable("The engine cannot be reached.")
        if engine.problem is None and engine.phase is not Phase.LOADED:
            return NotReady("The engine's model is not loaded.")
        if len(self._pending) + count > self._limits.queue_size:
            return Busy(f"{len(self._pending)} requests are on their way.", retry_after=FULL_SECONDS)
        own = sum(job.request.caller == caller for job in self._pending) if caller else 0
        if own and own + count > self._limits.per_caller:
            return CallerBusy(f"{own} requests of this caller are on their way.", retry_after=FULL_SECONDS)
        return None

    def _next_refusal(self) -> Refusal | None:
        """Return what a request would be refused with now. Needs the lock."""
        engine = self._watch.engine
        if self._refusing:
            return Refusal.STOPPING
        if engine.problem is not None:
            return Refusal.NO_INSTANCE
        if engine.phase is not Phase.LOADED:
            return Refusal.LOADING
        if not engine.ready:
            return engine.refusal or Refusal.QUEUE_FULL
        return Refusal.QUEUE_FULL if len(self._pending) >= self._limits.queue_size else None


def _limited(error: ServiceError, answer: Answer | None) -> bool:
    """Whether this server's key is at its limit, which only an operator can change."""
    codes = (Denial.RATE_LIMIT, Denial.CONCURRENT_LIMIT)
    return isinstance(error, Busy) and answer is not None and answer.code in codes


def _timing(jobs: Sequence[Job], answer: Answer | None, now: float) -> RequestTiming:
    """Return where the time went: by the engine's own account, else all of it counts as waiting."""
    computed = answer.seconds("compute") if answer is not None else None
    if answer is None or computed is None:
        return RequestTiming(waited=now - jobs[0].queued)
    return RequestTiming(waited=answer.seconds("queue") or 0.0, computed=computed, batch=len(jobs))


def _outcome(verdict: Verdict) -> str:
    """Return the count of Activity that an ended request adds to."""
    error = verdict.error
    if isinstance(error, InputError):
        return Outcome.INVALID
    if isinstance(error, Busy | NotReady | Unreachable):
        return Outcome.REJECTED
    known = (Outcome.TIMEOUT, Outcome.ABANDONED, Outcome.STOPPING)
    return Outcome.ANSWERED if error is None else str(error.code) if error.code in known else Outcome.ERROR

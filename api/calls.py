"""From a question to verdicts: submit in a worker thread, wait in the event loop, cancel on a disconnect.

A call has verdicts for all of its texts, or an error.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import Final, NamedTuple, Protocol, TypeVar

from api import problems
from api.bodies import Limits
from api.context import Context
from api.problems import Problem
from api.question import Question
from service.contract.causes import Refusal
from service.contract.errors import InputError
from service.contract.protocols import Submits
from service.contract.request import Verdict, VerdictFuture
from service.contract.status import Snapshot
from service.http.bodies import ClientDisconnected, Receive
from service.http.identity import Identity
from service.http.quota import NoCapacity, Quota, QuotaExceeded
from service.inference.jobs import places_per_caller
from service.settings import Settings
from service.telemetry.http_metrics import HttpMetrics

log = logging.getLogger(__name__)

# The application answers by the deadline; this bounds the wait if it fails to.
SPARE_SECONDS: Final = 10.0
SPARE_CALLS: Final = 64
T = TypeVar("T")


class Judged(NamedTuple):
    """Verdicts, and the longest wait in the queue and computation of their requests, in seconds."""

    verdicts: list[Verdict]
    waited: float
    computed: float


class Application(Submits, Protocol):
    """The part of the application that the API uses."""

    def snapshot(self) -> Snapshot: ...

    @property
    def http_metrics(self) -> HttpMetrics: ...


class Calls:
    """Judges questions with ``application``. ``intake`` runs the calls to it, at most one thread a call;
    ``identity`` counts them."""

    def __init__(
        self, application: Application, settings: Settings, intake: Executor, identity: Identity
    ) -> None:
        self.settings = settings
        self._identity = identity
        self.limits = Limits(settings)
        self._application = application
        self._intake = intake
        most = max_concurrent(settings)
        self._running = Quota(most, places_per_caller(most))

    async def judge(
        self, questions: Sequence[Question], receive: Receive, *, arrived: float, context: Context
    ) -> Judged:
        """Return a verdict for each text of each question.

        ``arrived`` is in monotonic seconds. Raises Problem, Denied over a limit of the caller's key, and
        ClientDisconnected when the client leaves.
        """
        self._identity.count(context.caller, sum(len(one.texts) for one in questions))
        try:
            self._running.acquire(context.caller.name, len(questions))
        except QuotaExceeded:
            raise Problem(Refusal.CALLER_LIMIT) from None
        except NoCapacity:
            raise Problem(Refusal.QUEUE_FULL) from None
        futures = [[VerdictFuture() for _ in one.texts] for one in questions]
        gone = asyncio.ensure_future(_disconnected(receive))
        answered = asyncio.ensure_future(self._answers(questions, futures, arrived, context))
        try:
            await asyncio.wait({answered, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise ClientDisconnected
            verdicts = answered.result()
        finally:
            self._running.release(context.caller.name, len(questions))
            gone.cancel()
            answered.cancel()
            for future in itertools.chain(*futures):
                future.cancel()
        for verdict in verdicts:
            if verdict.reason is not None:
                raise problems.of_verdict(verdict)
        timings = [one.timing for one in itertools.chain(*futures) if one.timing is not None]
        return Judged(
            verdicts,
            max((one.waited for one in timings), default=0.0),
            max((one.computed or 0.0 for one in timings), default=0.0),
        )

    async def _answers(
        self,
        questions: Sequence[Question],
        futures: list[list[VerdictFuture]],
        arrived: float,
        context: Context,
    ) -> list[Verdict]:
        loop = asyncio.get_running_loop()
        submissions = [
            functools.partial(self._submit, one, own, arrived, context)
            for one, own in zip(questions, futures, strict=True)
        ]
        try:
            async with asyncio.timeout(self.settings.timeout + SPARE_SECONDS):
                running = [loop.run_in_executor(self._intake, one) for one in submissions]
                submitted = await _all(running)
                waiting = [asyncio.ensure_future(_verdicts(one)) for one in submitted]
                return list(itertools.chain(*await _all(waiting)))
        except TimeoutError:
            log.error("BROKEN | MSG=no answer by the deadline | LIMIT=%gs", self.settings.timeout)
            raise Problem("timeout") from None

    def _submit(
        self, question: Question, futures: list[VerdictFuture], arrived: float, context: Context
    ) -> list[VerdictFuture]:
        """Submit all texts. Runs in a worker thread. Raises Problem for input that cannot be judged."""
        try:
            return self._application.submit_many(
                question.image,
                question.texts,
                question.premise,
                arrived=arrived,
                caller=context.caller.name,
                client_id=context.request_id,
                trace=context.trace,
                futures=futures,
            )
        except InputError as error:
            raise problems.of_input(error) from None


def max_concurrent(settings: Settings) -> int:
    """Return how many pictures may be judged at once: a full queue, and some being read or refused."""
    return settings.queue_size + SPARE_CALLS


async def _verdicts(futures: Sequence[VerdictFuture]) -> list[Verdict]:
    """Wait for the verdicts on one picture. Raises Problem for input that the engine behind --engine cannot
    judge."""
    try:
        return await asyncio.gather(*map(asyncio.wrap_future, futures))
    except InputError as error:
        raise problems.of_input(error) from None


async def _all(running: Sequence[asyncio.Future[list[T]]]) -> list[list[T]]:
    """Wait for all submissions, or verdicts. If some pictures of several cannot be judged, the Problem lists
    them."""
    if len(running) == 1:
        return [await running[0]]
    await asyncio.wait(running)
    failed = [(index, one.exception()) for index, one in enumerate(running)]
    refused = [(index, error) for index, error in failed if isinstance(error, Problem)]
    if refused:
        first = refused[0][1]
        first.errors = [{"index": index, "code": error.code} for index, error in refused]
        raise first
    return [one.result() for one in running]


async def _disconnected(receive: Receive) -> None:
    """Wait until the client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass

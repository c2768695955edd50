"""The handlers: from Gradio's call to the application and back.

They run on the event loop and never block it: a worker thread checks the input and waits for the picture to
be read, waiting for the answer is a suspended coroutine. The application counts the deadline from the arrival
here and refuses when its queue is full; nothing here queues, retries or limits.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Final, Protocol

import gradio as gr

from page import pending, verdicts
from page.card import Example
from page.operations.routes import OperationsService
from page.picture import Refusal
from page.words import Language, language_of
from service.callers import UNKNOWN, Callers
from service.contract.errors import InputError
from service.contract.request import Source, Verdict, VerdictFuture
from service.contract.status import Phase, Snapshot

log = logging.getLogger(__name__)

# The application answers every request by its deadline; should it ever not, a person still gets an answer.
SPARE_SECONDS = 10.0
NOTICE_SECONDS: Final = 0.3  # who is answered sooner is shown nothing but the answer


class Application(Protocol):
    """What the page needs of the service."""

    def submit(
        self,
        image: Any,
        text: str | None,
        premise: str | None = None,
        *,
        source: Source = "api",
        arrived: float | None = None,
        caller: str = "",
        future: VerdictFuture | None = None,
    ) -> VerdictFuture: ...

    def snapshot(self) -> Snapshot: ...

    @property
    def operations(self) -> OperationsService: ...


class Handlers:
    """The page's and the API's handlers over one application. ``limit`` is its time limit in seconds,
    ``intake`` the threads in which it checks input and waits for pictures, ``callers`` tells whose a request
    is, and ``in_use`` keeps a picture while it is read."""

    def __init__(
        self,
        application: Application,
        *,
        intake: Executor,
        limit: float,
        examples: Sequence[Example],
        callers: Callers | None = None,
        in_use: Callable[[Path | None], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._application = application
        self._intake = intake
        self._limit = limit
        self._callers = callers if callers is not None else Callers()
        self._examples = tuple(examples)
        self._in_use = in_use

    async def for_page(
        self, image: str | Refusal | None, text: str | None, premise: str | None, request: gr.Request
    ) -> AsyncGenerator[str, None]:
        """The answer as HTML, and before it, if it takes a while, how long it should take; never an exception
        to the browser."""
        future, language = VerdictFuture(), _language(request)
        submit = self._submission(image, text, premise, "page", request, future)
        awaited: asyncio.Future[Any] = asyncio.ensure_future(self._hand_over(submit))
        try:
            if not await _done_within(NOTICE_SECONDS, awaited):
                yield pending.card(None, language, limit=self._limit)
            handed = await awaited
            awaited = asyncio.wrap_future(handed)
            if not await _done_within(NOTICE_SECONDS, awaited):
                yield pending.card(handed.queue_estimate, language, limit=self._limit)
                patience = pending.patience(handed.queue_estimate)
                if patience is not None and not await _done_within(patience, awaited):
                    yield pending.late(language, limit=self._limit)
            answer = await self._answer(awaited)
        except InputError as error:
            yield verdicts.refusal(error, language)
            return
        finally:  # without effect on an answer; else the browser has gone away, and nobody waits
            awaited.cancel()
            future.cancel()
        failed = self._application.snapshot().phase is Phase.FAILED
        yield verdicts.verdict(answer, language, limit=self._limit, failed=failed)

    async def for_programs(
        self,
        image: str | Refusal | None,
        text: str | None,
        premise: str | None = None,
        request: gr.Request | None = None,
    ) -> dict[str, object]:
        """Judge whether the picture shows what the text says, given the premise if there is one.

        Returns {"label", "score", "scores", "reason"}; when reason is not null there is no verdict.
        """
        future = VerdictFuture()
        submit = self._submission(image, text, premise, "api", request, future)
        try:
            handed = await self._hand_over(submit)
            return (await self._answer(asyncio.wrap_future(handed))).as_dict()
        except InputError as error:
            told = verdicts.refusal_text(error, _language(request))
            raise gr.Error(told, title=error.code, print_exception=False) from None
        finally:
            future.cancel()

    async def fill(self, event: gr.EventData) -> tuple[str, str, str]:
        """The example that was chosen, as picture, sentence and premise."""
        index = event._data.get("index") if isinstance(event._data, dict) else None
        if not isinstance(index, int) or not 0 <= index < len(self._examples):
            raise gr.Error("There is no such example.", print_exception=False)
        example = self._examples[index]
        return str(example.image), example.hypothesis, example.premise or ""

    def _submission(
        self,
        image: str | Refusal | None,
        text: str | None,
        premise: str | None,
        source: Source,
        request: gr.Request | None,
        future: VerdictFuture,
    ) -> Callable[[], VerdictFuture]:
        """The call of the application for a request that arrives now. Cancelling ``future`` ends it, wherever
        it is."""
        arrived, caller = time.monotonic(), self._caller(request)

        def submission() -> VerdictFuture:
            if isinstance(image, Refusal):
                raise InputError("The picture was not uploaded to this server.", code=image.code)
            path = Path(image) if image else None
            with self._in_use(path):
                handed = self._application.submit(
                    path,
                    text,
                    premise or None,
                    source=source,
                    arrived=arrived,
                    caller=caller,
                    future=future,
                )
            if handed is not future:
                future.add_done_callback(lambda done: handed.cancel() if done.cancelled() else None)
            return handed

        return submission

    async def _hand_over(self, submit: Callable[[], VerdictFuture]) -> VerdictFuture:
        """The application's promise of an answer. Raises InputError and nothing else."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._intake, submit)
        except InputError:
            raise
        except Exception as error:
            refused = VerdictFuture()
            refused.set_result(_failed(error))
            return refused

    def _caller(self, request: gr.Request | None) -> str:
        client = getattr(request, "client", None)
        if request is None or client is None:
            return UNKNOWN
        return self._callers.of(str(client.host), request.headers)

    async def _answer(self, awaited: asyncio.Future[Verdict]) -> Verdict:
        try:
            return await asyncio.wait_for(awaited, self._limit + SPARE_SECONDS)
        except TimeoutError:
            log.error("The application left a request without an answer.")
            return Verdict.none("timeout")
        except Exception as error:
            return _failed(error)


def _failed(error: Exception) -> Verdict:
    """The answer when the application breaks its word. The error may hold what the user sent: only its name
    is logged."""
    log.error("The page got no answer from the application: %s", type(error).__name__)
    return Verdict.none("error")


async def _done_within(seconds: float, awaited: asyncio.Future[Any]) -> bool:
    """Whether there is an outcome by then; it is neither taken nor, if there is none, given up."""
    done, _ = await asyncio.wait({awaited}, timeout=seconds)
    return bool(done)


def _language(request: gr.Request | None) -> Language:
    return language_of(request.headers.get("accept-language") if request else None)

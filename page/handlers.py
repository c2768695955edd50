"""The handlers of the page's and the API's events: from Gradio's call to the application and back.

They run in the event loop and never block it: a worker thread submits the request, which reads the picture;
the wait for the answer is a suspended coroutine. Queueing, limits and deadlines are the application's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import AbstractContextManager, ExitStack, aclosing, nullcontext
from pathlib import Path
from typing import Any, Final, Protocol

import gradio as gr

from page import pending, verdicts
from page.card import Example
from page.operations.routes import OperationsService
from page.picture import InvalidPicture
from page.words import Language, language_of, say
from service.callers import UNKNOWN, Callers
from service.contract.errors import InputError, LimitReached
from service.contract.request import Source, Verdict, VerdictFuture
from service.contract.status import Phase, Snapshot
from service.http.identity import CALLER, Caller, Identity

log = logging.getLogger(__name__)

# The application answers by the deadline; this bounds the wait if it fails to.
SPARE_SECONDS = 10.0
NOTICE_SECONDS: Final = 0.3  # a faster answer is shown without an estimate before it


class Application(Protocol):
    """The part of the application that the page uses."""

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
    """The handlers over one application. ``limit`` is its time limit in seconds, ``intake`` runs the calls to
    it, ``in_use`` protects a picture from deletion."""

    def __init__(
        self,
        application: Application,
        *,
        intake: Executor,
        limit: float,
        examples: Sequence[Example],
        callers: Callers | None = None,
        identity: Identity | None = None,
        in_use: Callable[[Path | None], AbstractContextManager[object]] = nullcontext,
    ) -> None:
        self._application = application
        self._intake = intake
        self._limit = limit
        self._callers = callers if callers is not None else Callers()
        self._identity = identity if identity is not None else Identity(callers=callers)
        self._examples = tuple(examples)
        self._in_use = in_use

    async def for_page(
        self,
        image: str | InvalidPicture | None,
        text: str | None,
        premise: str | None,
        row: str | None,
        request: gr.Request,
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Yield the answer for the page's ``row``, and before a slow one what is known of it."""
        async with aclosing(self._answers(image, text, premise, request)) as answers:
            async for answer in answers:
                yield {"row": row, **answer}

    async def _answers(
        self, image: str | InvalidPicture | None, text: str | None, premise: str | None, request: gr.Request
    ) -> AsyncGenerator[dict[str, Any], None]:
        future, language = VerdictFuture(), _language(request)
        submit = self._submission(image, text, premise, "page", request, future)
        awaited: asyncio.Future[Any] = asyncio.ensure_future(self._submit(submit))
        try:
            if not await _done_within(NOTICE_SECONDS, awaited):
                yield _pending(pending.estimate(None, language, limit=self._limit))
            submitted = await awaited
            awaited = asyncio.wrap_future(submitted)
            if not await _done_within(NOTICE_SECONDS, awaited):
                yield _pending(pending.estimate(submitted.queue_estimate, language, limit=self._limit))
                late_after = pending.late_after(submitted.queue_estimate)
                if late_after is not None and not await _done_within(late_after, awaited):
                    yield _pending(pending.late(language, limit=self._limit))
            answer = await self._answer(awaited)
        except InputError as error:
            yield verdicts.input_error(error, language)
            return
        finally:  # cancels the request if the browser has disconnected
            awaited.cancel()
            future.cancel()
        failed = self._application.snapshot().phase is Phase.FAILED
        yield verdicts.verdict(answer, language, limit=self._limit, failed=failed)

    async def for_programs(
        self,
        image: str | InvalidPicture | None,
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
            submitted = await self._submit(submit)
            return (await self._answer(asyncio.wrap_future(submitted))).as_dict()
        except InputError as error:
            message = verdicts.input_error_text(error, _language(request))
            raise gr.Error(message, title=error.code, print_exception=False) from None
        finally:
            future.cancel()

    async def fill(self, event: gr.EventData) -> tuple[str, str, str]:
        """Return the chosen example as picture, sentence and premise."""
        index = event._data.get("index") if isinstance(event._data, dict) else None
        if not isinstance(index, int) or not 0 <= index < len(self._examples):
            raise gr.Error("Unknown example.", print_exception=False)
        example = self._examples[index]
        return str(example.image), example.hypothesis, example.premise or ""

    def _submission(
        self,
        image: str | InvalidPicture | None,
        text: str | None,
        premise: str | None,
        source: Source,
        request: gr.Request | None,
        future: VerdictFuture,
    ) -> Callable[[], VerdictFuture]:
        """Return the call that submits a request, with the present time as its arrival. Cancelling ``future``
        cancels the request at any stage. Raises gr.Error if too many of the caller's are running."""
        arrived, caller, held = time.monotonic(), self._caller(request), ExitStack()
        try:
            held.enter_context(self._identity.running(caller))
        except LimitReached as error:
            text = say(_language(request), "limit.concurrent")
            raise gr.Error(text, title=error.code, print_exception=False) from None
        future.add_done_callback(lambda _: held.close())

        def submission() -> VerdictFuture:
            if isinstance(image, InvalidPicture):
                raise InputError("The picture was not uploaded to this server.", code=image.code)
            path = Path(image) if image else None
            with self._in_use(path):
                submitted = self._application.submit(
                    path,
                    text,
                    premise or None,
                    source=source,
                    arrived=arrived,
                    caller=caller.name,
                    future=future,
                )
            if submitted is not future:
                future.add_done_callback(lambda done: submitted.cancel() if done.cancelled() else None)
            return submitted

        return submission

    async def _submit(self, submit: Callable[[], VerdictFuture]) -> VerdictFuture:
        """Run ``submit`` in the intake threads. Raises InputError; other errors become a verdict."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._intake, submit)
        except InputError:
            raise
        except Exception as error:
            failed = VerdictFuture()
            failed.set_result(_failed(error))
            return failed

    def _caller(self, request: gr.Request | None) -> Caller:
        known = getattr(getattr(request, "state", None), CALLER, None)  # noted by page.gate
        if isinstance(known, Caller):
            return known
        client = getattr(request, "client", None)
        if request is None or client is None:
            return Caller(UNKNOWN)
        return Caller(self._callers.of(str(client.host), request.headers))

    async def _answer(self, awaited: asyncio.Future[Verdict]) -> Verdict:
        """Raises InputError that the engine behind --engine has found."""
        try:
            return await asyncio.wait_for(awaited, self._limit + SPARE_SECONDS)
        except TimeoutError:
            log.error("BROKEN | MSG=no answer by the deadline | LIMIT=%gs", self._limit)
            return Verdict.none("timeout")
        except InputError:
            raise
        except Exception as error:
            return _failed(error)


def _pending(text: str) -> dict[str, Any]:
    return {"state": "pending", "text": text}


def _failed(error: Exception) -> Verdict:
    """Log an unexpected error's class, as its message may quote input; return a verdict."""
    log.error("BROKEN | MSG=the application raised | ERROR=%s", type(error).__name__)
    return Verdict.none("error")


async def _done_within(seconds: float, awaited: asyncio.Future[Any]) -> bool:
    """Whether ``awaited`` is done within ``seconds``; it is not cancelled otherwise."""
    done, _ = await asyncio.wait({awaited}, timeout=seconds)
    return bool(done)


def _language(request: gr.Request | None) -> Language:
    return language_of(request.headers.get("accept-language") if request else None)

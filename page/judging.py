"""The handlers: from Gradio's call to the application and back.

They run on the event loop and never block it: checking and decoding a picture happens in a worker thread,
waiting for the answer is a suspended coroutine. The application counts the deadline and refuses when its
queue is full; nothing here queues, retries or limits.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import gradio as gr

from page import verdicts
from page.card import Example
from page.operations import Desk
from page.picture import Refusal
from page.words import Language, language_of
from service.errors import InputError
from service.request import Source, Verdict
from service.status import Phase, Snapshot

log = logging.getLogger(__name__)

# The application answers every request by its deadline; should it ever not, a person still gets an answer.
SPARE_SECONDS = 10.0


class Application(Protocol):
    """What the page needs of the service."""

    def submit(
        self, image: Any, text: str | None, premise: str | None = None, *, source: Source = "api"
    ) -> Future[Verdict]: ...

    def snapshot(self) -> Snapshot: ...

    @property
    def operations(self) -> Desk: ...


class Judging:
    """The page's and the API's handlers over one application. ``limit`` is its time limit in seconds,
    ``intake`` the threads in which it checks and decodes."""

    def __init__(
        self, application: Application, *, intake: Executor, limit: float, examples: Sequence[Example]
    ) -> None:
        self._application = application
        self._intake = intake
        self._limit = limit
        self._examples = tuple(examples)

    async def for_page(
        self, image: str | Refusal | None, text: str | None, premise: str | None, request: gr.Request
    ) -> str:
        """The answer as HTML; never an exception to the browser."""
        language = _language(request)
        try:
            answer = await self._judge(image, text, premise, "page")
        except InputError as error:
            return verdicts.refusal(error, language)
        failed = self._application.snapshot().phase is Phase.FAILED
        return verdicts.verdict(answer, language, limit=self._limit, failed=failed)

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
        try:
            return (await self._judge(image, text, premise, "api")).as_dict()
        except InputError as error:
            told = verdicts.refusal_text(error, _language(request))
            raise gr.Error(told, title=error.code, print_exception=False) from None

    async def fill(self, event: gr.EventData) -> tuple[str, str, str]:
        """The example that was chosen, as picture, sentence and premise."""
        index = event._data.get("index") if isinstance(event._data, dict) else None
        if not isinstance(index, int) or not 0 <= index < len(self._examples):
            raise gr.Error("There is no such example.", print_exception=False)
        example = self._examples[index]
        return str(example.image), example.hypothesis, example.premise or ""

    async def _judge(
        self, image: str | Refusal | None, text: str | None, premise: str | None, source: Source
    ) -> Verdict:
        if isinstance(image, Refusal):
            raise InputError("The picture was not uploaded to this server.", code=image.code)
        path = Path(image) if image else None
        try:
            submit = partial(self._application.submit, path, text, premise or None, source=source)
            future = await asyncio.get_running_loop().run_in_executor(self._intake, submit)
            return await asyncio.wait_for(asyncio.wrap_future(future), self._limit + SPARE_SECONDS)
        except InputError:
            raise
        except TimeoutError:
            log.error("The application left a request without an answer.")
            return Verdict.none("timeout")
        except Exception as error:  # its text may hold what the user sent: only its name is logged
            log.error("The page could not hand a request over: %s", type(error).__name__)
            return Verdict.none("error")


def _language(request: gr.Request | None) -> Language:
    return language_of(request.headers.get("accept-language") if request else None)

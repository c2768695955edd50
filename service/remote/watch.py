"""Asks the engine behind --engine every few seconds what it serves and whether it is ready."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import anyio

from service.contract.causes import Refusal
from service.contract.errors import InvalidAnswer, KeyRefused, ServiceError
from service.contract.log_line import fields
from service.contract.status import Phase, Remote
from service.remote.answers import engine_of, error_of
from service.remote.client import MODEL_SECONDS, Client

POLL_SECONDS: Final = 5.0
RETRY_SECONDS: Final = (
    1.0  # while it is not reached or its model not loaded; also the least time between two questions
)
log = logging.getLogger(__name__)


class Watch:
    """Holds the engine's latest description of itself. ``on_change`` gets each new one.

    ``run`` and ``look_soon`` are for the event loop; ``engine`` and ``wait_first`` for any thread.
    """

    def __init__(self, client: Client, url: str, on_change: Callable[[Remote], None]) -> None:
        self._client = client
        self._url = url
        self._on_change = on_change
        self._wake = asyncio.Event()
        self._looked = threading.Event()
        self._logged: tuple[object, ...] = ()
        self._unreached = 0  # times in a row that it was not reached, by a look or a request
        self.engine = Remote(url)  # replaced whole

    def wait_first(self, seconds: float) -> None:
        """Wait until it was asked once."""
        self._looked.wait(seconds)

    def look_soon(self) -> None:
        """A request has not reached the engine."""
        self._unreached += 1
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self.look()
            await asyncio.sleep(RETRY_SECONDS)
            steady = self.engine.phase is Phase.LOADED and not self._unreached
            if steady and not self._wake.is_set():
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), POLL_SECONDS - RETRY_SECONDS)
            self._wake.clear()

    async def look(self) -> None:
        """Ask once. The engine counts as unreachable at the second failure in a row: until then requests are
        sent as before, and their answers decide."""
        try:
            with anyio.fail_after(MODEL_SECONDS):
                answer = await self._client.model()
            if answer.status != 200:
                raise error_of(answer)
            engine, failure = engine_of(answer, self._url), None
        except TimeoutError:
            engine, failure = Remote(self._url), None
        except ServiceError as error:
            engine, failure = Remote(self._url, problem=_problem(error)), error
        except Exception as error:  # the thread must go on, whatever was answered
            failure = InvalidAnswer("The engine's answer cannot be read.")
            failure.__cause__ = error
            engine = Remote(self._url, problem=_problem(failure))
        self._unreached = self._unreached + 1 if engine.problem == Refusal.NO_INSTANCE else 0
        if self._unreached == 1 and self.engine.problem is None:
            return
        self._log(engine, failure)
        if engine != self.engine:
            self.engine = engine
            self._on_change(engine)
        self._looked.set()

    def _log(self, engine: Remote, failure: ServiceError | None) -> None:
        """One line per change of what an operator acts on."""
        if (state := (engine.problem, engine.model, engine.phase)) == self._logged:
            return
        self._logged = state
        if engine.problem is None:
            more = fields(model=engine.model, state=engine.phase, device=engine.device, dtype=engine.dtype)
            log.info("ENGINE_REACHED | URL=%s%s", self._url, more)
            return
        cause = None if failure is None else failure.__cause__
        log.error(
            "ENGINE_UNUSABLE | URL=%s%s",
            self._url,
            fields(
                code=engine.problem,
                cause=type(cause).__name__ if cause else None,
                msg="The engine did not answer in time." if failure is None else failure.message,
                remedy=None if failure is None else failure.remedy,
            ),
        )


def _problem(error: ServiceError) -> str:
    if isinstance(error, InvalidAnswer):
        return "invalid_answer"
    if isinstance(error, KeyRefused):
        return "key_refused"
    return Refusal.NO_INSTANCE if error.code == Refusal.STOPPING else str(error.code)

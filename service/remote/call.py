"""A call on its way to the engine behind --engine, which any thread can cancel."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

import anyio


class Call:
    """Runs work in ``loop`` and cancels it through a scope of anyio: when a task is cancelled, httpcore
    never removes its connection from the pool.

    ``running`` is the loop's set of calls that have begun; each removes itself at its end.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, running: set[Call]) -> None:
        self._loop = loop
        self._running = running
        self.task: asyncio.Task[None] | None = None
        self._scope: anyio.CancelScope | None = None  # this and the next for the loop's thread only
        self._cancelled = False

    def start(self, work: Callable[[], Awaitable[None]]) -> None:
        asyncio.run_coroutine_threadsafe(self._run(work), self._loop)

    def cancel(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self.cancel_now)

    def cancel_now(self) -> None:
        """As ``cancel``, in the loop's thread."""
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()

    async def _run(self, work: Callable[[], Awaitable[None]]) -> None:
        self.task = asyncio.current_task()
        self._running.add(self)
        try:
            with anyio.CancelScope() as self._scope:
                if self._cancelled:  # before it began
                    self._scope.cancel()
                await work()
        finally:
            self._running.discard(self)

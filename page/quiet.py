"""What Gradio and the server under it would print: kept from the console, and written to our log as places.

Their tracebacks and warnings quote what callers sent. Ours say where an error came from and of what class it
is, nothing more.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from importlib import import_module
from types import SimpleNamespace
from typing import Any, Final

from page.log_limit import LogLimit

log = logging.getLogger(__name__)

#: Gradio's modules that print tracebacks while they serve.
PRINTING: Final = ("gradio.queueing", "gradio.route_utils", "gradio.routes", "gradio.utils")
WARNING_SECONDS: Final = 60.0  # between two lines on requests that the server could not read


def take_over() -> None:
    """Send to our log what Gradio's modules and the server would print."""
    for name in PRINTING:
        module = import_module(name)
        setattr(module, "traceback", SimpleNamespace(print_exc=_print_exc, format_exc=lambda: ""))  # noqa: B010
    server = logging.getLogger("uvicorn.error")
    server.propagate = False
    server.handlers = [_FromServer()]


def take_over_loop(loop: asyncio.AbstractEventLoop) -> None:
    """The same for what is raised where nobody waits for it."""
    loop.set_exception_handler(_not_waited_for)


def _print_exc(*args: object, **kwargs: object) -> None:
    error = sys.exc_info()[1]
    log.error("BROKEN | MSG=Exception in Gradio | ERROR=%s", type(error).__name__, exc_info=_bare(error))


def _not_waited_for(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    error = context.get("exception")
    log.error(
        "BROKEN | MSG=Exception in the event loop | ERROR=%s", type(error).__name__, exc_info=_bare(error)
    )


def _bare(error: BaseException | None) -> Any:
    """An error without its message and its causes, which may quote input, but with its places."""
    return error and (RuntimeError, RuntimeError(type(error).__name__), error.__traceback__)


class _FromServer(logging.Handler):
    """Passes the server's records on to our log. Its warnings are about requests that it could not read: what
    anybody can cause is written now and then."""

    def __init__(self) -> None:
        super().__init__()
        self._warnings = LogLimit(WARNING_SECONDS)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.WARNING:
            error = record.exc_info[1] if record.exc_info else None
            log.error(
                "BROKEN | MSG=Exception in ASGI application | ERROR=%s",
                type(error).__name__,
                exc_info=_bare(error),
            )
        elif self._warnings.allows():
            log.warning("REQUEST_UNREADABLE | MORE=%d", self._warnings.suppressed())

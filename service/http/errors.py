"""Log lines about a server's exceptions, without their messages, which may quote input."""

from __future__ import annotations

import asyncio
import logging
from typing import Any, Final

from service.http.log_limit import LogLimit

WARNING_SECONDS: Final = 60.0  # between two lines about unreadable requests
log = logging.getLogger(__name__)


def redirect_server_log() -> None:
    """Log what uvicorn would print."""
    server = logging.getLogger("uvicorn.error")
    server.propagate = False
    server.handlers = [_ServerLog()]


def on_loop_error(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Log an exception of a callback, or of a task that is never awaited; a loop's exception handler."""
    log_error("event loop", context.get("exception"))


def log_error(where: str, error: BaseException | None) -> None:
    """Log an error's class and traceback; its message and causes may quote input."""
    bare: Any = error and (RuntimeError, RuntimeError(type(error).__name__), error.__traceback__)
    log.error("BROKEN | MSG=Exception in %s | ERROR=%s", where, type(error).__name__, exc_info=bare)


class _ServerLog(logging.Handler):
    """Forwards uvicorn's errors, and counts its warnings, which are about unreadable requests."""

    def __init__(self) -> None:
        super().__init__()
        self._warnings = LogLimit(WARNING_SECONDS)

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno > logging.WARNING:
            log_error("ASGI application", record.exc_info[1] if record.exc_info else None)
        elif (more := self._warnings.admit()) is not None:
            log.warning("REQUEST_UNREADABLE | MORE=%d", more)

"""What may be asked of the page's port: an ASGI layer in front of Gradio.

Gradio answers far more than a page needs: it fetches addresses for callers, shows usage, edits its own
code. Here every path is closed that the page and its API do not use. Bodies are bounded before anyone reads
them, and the browser is told to load nothing from elsewhere. A caller who hangs up is no error of ours.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

log = logging.getLogger(__name__)

OPEN: Final = {
    "GET": re.compile(
        r"/|/status|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/example/\d{1,3}"
        r"|/(assets|static|svelte)/.+"
        r"|/gradio_api/(info/?|openapi\.json|app_id/?|theme\.css|startup-events|upload_progress|queue/data"
        r"|heartbeat/\w+|call/(v2/)?judge/\w+|file=(?!\w+:).+)"
    ),
    "POST": re.compile(r"/gradio_api/(upload|queue/join|cancel|reset/?|call/(v2/)?judge/?)"),
}
# Where there is an operations tab. Who may see what these answer is decided behind them (page.operations).
OPERATIONS: Final = {
    "GET": re.compile(r"/ops/(panel|findings)"),
    "POST": re.compile(r"/ops/(login|logout|probe|cache)"),
}
METHODS: Final = {"GET": "GET", "HEAD": "GET", "POST": "POST"}
UPLOAD: Final = "/gradio_api/upload"

JSON_BYTES: Final = 1_048_576
# A file over the service's limit is still taken in up to this many times it, so that the person is told in
# their language what to change; only beyond that the connection is refused.
UPLOAD_SLACK: Final = 4
MULTIPART_BYTES: Final = 65_536
DRAINED_BYTES: Final = 268_435_456

HEADERS: Final = tuple(
    (name.encode(), value.encode())
    for name, value in {
        # Gradio's page is made of inline scripts and of functions built from text; all else stays at home.
        "content-security-policy": "default-src 'self'; "
        "script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; media-src 'self' data: blob:; "
        "font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; object-src 'none'; "
        "base-uri 'self'; form-action 'self'; frame-ancestors 'self'",
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    }.items()
)


class Gate:
    """Lets through what is open and small enough. ``max_bytes`` is the largest picture file accepted,
    ``operations`` says whether there is an operations tab."""

    def __init__(self, app: App, *, max_bytes: int, operations: bool = False) -> None:
        self._app = app
        self._open = (OPEN, OPERATIONS) if operations else (OPEN,)
        self._upload_bytes = max_bytes * UPLOAD_SLACK + MULTIPART_BYTES
        self._closing = False

    def close(self) -> None:
        """Take no more questions, so that what was taken can be answered before connections close."""
        self._closing = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        refused = self._refusal(scope)
        if refused is None:
            await self._pass_on(scope, receive, send_with_headers)
            return
        if _length(scope) <= DRAINED_BYTES:
            await _drain(receive)
        await _answer(send_with_headers, *refused)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Gradio answer. What it raises is the server's to log, but for what is a caller's doing."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if _hung_up(error):
                # Only who reads a body finds out this way, and the paths that take one hold nobody's words.
                log.info("HUNG_UP | PATH=%s | LENGTH=%d", scope["path"], _length(scope))
            elif _refused_late(error):
                await send({"type": "http.response.body", "body": b""})
            else:
                raise

    def _refusal(self, scope: Scope) -> tuple[int, str] | None:
        """The status and the sentence to refuse with, or None."""
        method, path = scope["method"], scope["path"]
        if method not in METHODS:
            return 405, "This method is not used here."
        if not any(paths[METHODS[method]].fullmatch(path) for paths in self._open):
            return 404, "There is nothing here."
        if method != "POST":
            return None
        if self._closing:
            return 503, "The service is stopping."
        if _length(scope) < 0:
            return 411, "Say the length of the body (Content-Length)."
        if _length(scope) > (self._upload_bytes if path == UPLOAD else JSON_BYTES):
            return 413, "This is too large. Make the picture smaller and try again."
        return None


def _length(scope: Scope) -> int:
    """What the caller says the body's length is; -1 where it says nothing that can be understood."""
    said = dict(scope["headers"]).get(b"content-length", b"")
    return int(said) if said.isdigit() else 0 if scope["method"] in ("GET", "HEAD") else -1


def _hung_up(error: Exception) -> bool:
    """Whether the caller was gone before all of the body was there."""
    from starlette.requests import ClientDisconnect  # late, as all that Gradio brings: the port comes first

    return isinstance(error, ClientDisconnect)


def _refused_late(error: Exception) -> bool:
    """Whether Gradio found only after its answer had begun that it has none, e.g. for a session it forgot."""
    from starlette.exceptions import HTTPException

    return (
        isinstance(error, RuntimeError)
        and isinstance(error.__cause__, HTTPException)
        and error.__cause__.status_code < 500
    )


async def _drain(receive: Receive) -> None:
    """Read the body and forget it: a caller that is cut off while sending never sees the answer."""
    while (await receive()).get("more_body", False):
        pass


async def _answer(send: Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode()})

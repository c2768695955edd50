"""What may be asked of the page's port: an ASGI layer in front of Gradio.

Gradio answers far more than a page needs: it fetches addresses for callers, shows usage, edits its own code.
Here every path is closed that the page and its API do not use, and what is let through is in a form that
Gradio knows: framing, headers, queries and bodies are checked first, and a refusal is an answer, never an
error of ours. The browser is told to load nothing from elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any, Final

from page import bodies, quiet
from page.bodies import App, HungUp, Receive, Refused, Scope, Send
from page.calls import CODE, Calls
from page.headers import check_headers, for_gradio, is_form_of_json
from page.receiving import PROGRESS, UPLOAD, Receiving
from page.sessions import HasReader, Sessions
from page.shares import Shares
from service.callers import Callers

log = logging.getLogger(__name__)

_WORD: Final = r"[A-Za-z0-9_-]{1,64}"
OPEN: Final = {
    "GET": re.compile(
        r"/|/status|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/example/[0-9]{1,3}"
        r"|/(assets|static|svelte)/[A-Za-z0-9._@+/-]{1,200}"
        r"|/gradio_api/(info/?|openapi\.json|app_id/?|theme\.css|startup-events|upload_progress|queue/data"
        rf"|heartbeat/{_WORD}|call/(v2/)?judge/{_WORD}|file=(?!\w+:).{{1,1000}})"
    ),
    "POST": re.compile(r"/gradio_api/(upload|queue/join|cancel|reset/?|call/(v2/)?judge/?)"),
}
# Where there is an operations tab. Who may see what these answer is decided behind them (page.operations).
OPERATIONS: Final = {
    "GET": re.compile(r"/ops/(panel|findings)"),
    "POST": re.compile(r"/ops/(login|logout|probe|cache)"),
}
METHODS: Final = {"GET": "GET", "HEAD": "GET", "POST": "POST"}
# What a query may be; any other is dropped.
QUERIES: Final = {
    "/gradio_api/queue/data": re.compile(rf"session_hash={_WORD}"),
    "/gradio_api/info": re.compile(r"all_endpoints=(true|false)", re.IGNORECASE),
    UPLOAD: re.compile(r".*"),
    PROGRESS: re.compile(r".*"),
}
STREAM: Final = re.compile(rf"/gradio_api/(?:call/(?:v2/)?judge/({_WORD})|queue/data)")

JSON_BYTES: Final = 1_048_576
# A file over the service's limit is still taken in up to this many times it, so that the person is told in
# their language what to change; only beyond that the connection is refused.
UPLOAD_SLACK: Final = 4
MULTIPART_BYTES: Final = 65_536

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


def upload_bytes(max_bytes: int) -> int:
    """The largest body of an upload, where pictures may have ``max_bytes``."""
    return max_bytes * UPLOAD_SLACK + MULTIPART_BYTES


class Gate:
    """Lets through what is open, well-formed and small enough. ``max_bytes`` is the largest picture file
    accepted, ``operations`` says whether there is an operations tab, ``calls`` checks what is asked of
    Gradio, ``receiving`` takes the uploads, ``sessions`` are those of Gradio's queue, ``root_path`` is what a
    proxy puts before our paths."""

    def __init__(
        self,
        app: App,
        *,
        max_bytes: int,
        operations: bool = False,
        calls: Calls | None = None,
        receiving: Receiving | None = None,
        callers: Callers | None = None,
        memory: Shares | None = None,
        sessions: Sessions | None = None,
        root_path: str = "",
    ) -> None:
        self._app = app
        self._open = (OPEN, OPERATIONS) if operations else (OPEN,)
        self._upload_bytes = upload_bytes(max_bytes)
        self._calls = calls
        self._receiving = receiving
        self._callers = callers or Callers()
        self._memory = memory or Shares(bodies.MEMORY_BYTES, bodies.MEMORY_SHARE)
        self._root_path = root_path
        self._sessions = sessions
        self._closing = False

    def close(self) -> None:
        """Take no more questions, so that what was taken can be answered before connections close."""
        self._closing = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            quiet.take_over_loop(asyncio.get_running_loop())
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            return
        started, body = False, bodies.Body(receive)

        async def send_with_headers(message: bodies.Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message["headers"] = [*message.get("headers", []), *HEADERS]
            await send(message)

        try:
            await self._serve(scope, body.receive, send_with_headers)
        except Refused as refused:
            if started:
                raise
            # As much as would have been taken: an upload is often refused while it is on its way.
            most = self._upload_bytes if scope["path"] == UPLOAD else 0
            most = max(most, bodies.DRAINED_BYTES)
            await bodies.refuse(scope, body, send_with_headers, refused, most)
        except HungUp:
            return  # there is nobody to answer

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        check_headers(scope)
        if self._root_path and scope["path"] == self._root_path:
            await _redirect(self._root_path + "/", send)
            return
        scope = {**scope, "path": self._below_root(scope["path"])}
        self._check(scope)
        path, peer = scope["path"], (scope.get("client") or ("",))[0]
        scope["headers"] = for_gradio(scope["headers"], trusted=self._callers.is_proxy(peer))
        if scope["method"] == "POST" and path != UPLOAD:
            await self._pass_on_json(scope, receive, send)
        elif self._receiving is not None and self._receiving.serves(path):
            await self._receiving(scope, bodies.limited(receive, self._upload_bytes), send)
        elif self._sessions is not None and (session := _session(scope)) is not None:
            try:
                with self._sessions.reading(session):
                    await self._pass_on(scope, receive, send)
            except HasReader:
                raise Refused(409, "These answers are being read already.", code=CODE) from None
        else:
            await self._pass_on(scope, receive, send)

    def _below_root(self, path: str) -> str:
        """The path without the proxy's part, which some proxies leave in it."""
        return path.removeprefix(self._root_path) if path.startswith(f"{self._root_path}/") else path

    def _check(self, scope: Scope) -> None:
        """Raises Refused for what is not open, and sets the query to what is."""
        bodies.check_framing(scope)
        method, path = scope["method"], scope["path"]
        if method not in METHODS:
            raise Refused(405, "Method not allowed.")
        if not any(paths[METHODS[method]].fullmatch(path) for paths in self._open):
            raise Refused(404, "Not found.")
        if path not in QUERIES or not QUERIES[path].fullmatch(
            scope.get("query_string", b"").decode("latin-1")
        ):
            scope["query_string"] = b""
        if method != "POST":
            return
        if self._closing:
            raise Refused(503, "The service is stopping.")
        said = bodies.length(scope)
        if said is None and not bodies.values(scope, b"transfer-encoding"):
            raise Refused(411, "Content-Length is required.")
        if said is not None and said > (self._upload_bytes if path == UPLOAD else JSON_BYTES):
            raise bodies.too_large()

    async def _pass_on_json(self, scope: Scope, receive: Receive, send: Send) -> None:
        """A call whose body is JSON: read here, checked, and passed on as it should be."""
        gradios = self._calls is not None and scope["path"].startswith("/gradio_api/")
        if gradios and not is_form_of_json(scope["headers"]):
            raise Refused(415, "Send JSON, with Content-Type: application/json.", code=CODE)
        caller = self._callers.of((scope.get("client") or ("",))[0], _by_name(scope))
        with bodies.memory_for(self._memory, caller, bodies.length(scope) or JSON_BYTES):
            body = await bodies.whole(receive, JSON_BYTES)
            if gradios and self._calls is not None:
                body = self._calls.checked(scope["path"], body)
        scope["headers"] = [
            *((name, value) for name, value in scope["headers"] if name not in FRAMING),
            (b"content-length", str(len(body)).encode()),
        ]
        await self._pass_on(scope, bodies.replayed(body, receive), send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Gradio answer. What it raises is the server's to log, but for what is a caller's doing."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if not _refused_late(error):
                raise
            await send({"type": "http.response.body", "body": b""})


FRAMING: Final = (b"content-length", b"transfer-encoding")


def _session(scope: Scope) -> str | None:
    """The session or event whose answers are asked for."""
    found = STREAM.fullmatch(scope["path"])
    if found is None or scope["method"] != "GET":
        return None
    return found[1] or scope["query_string"].decode("latin-1").partition("=")[2] or None


def _by_name(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _refused_late(error: Exception) -> bool:
    """Whether Gradio found only after its answer had begun that it has none, e.g. for a session it forgot."""
    from starlette.exceptions import HTTPException  # late, as all that Gradio brings: the port comes first

    return (
        isinstance(error, RuntimeError)
        and isinstance(error.__cause__, HTTPException)
        and error.__cause__.status_code < 500
    )


async def _redirect(to: str, send: Send) -> None:
    headers: list[tuple[bytes, bytes]] = [(b"location", to.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": 308, "headers": headers})
    body: dict[str, Any] = {"type": "http.response.body", "body": b""}
    await send(body)

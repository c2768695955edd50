"""ASGI middleware in front of Gradio: path allowlist, request validation, security headers.

Gradio has more endpoints than a page needs: it fetches URLs for callers, shows usage, edits its own code.
Only the paths in use are open, and framing, headers, queries and bodies are validated first.
"""

from __future__ import annotations

import re
from typing import Any, Final

from page.calls import CODE, CallValidator
from page.forwarding import for_gradio
from page.sessions import AlreadyRead, Sessions
from page.upload_routes import PROGRESS, UPLOAD, UploadRoutes
from service.callers import Callers
from service.contract.errors import Denied
from service.http import bodies
from service.http.bodies import App, ClientDisconnected, Receive, Refused, Scope, Send
from service.http.headers import below_root, caller_of, check_headers, is_json, peer_of
from service.http.identity import CALLER, Identity, headers_of
from service.http.quota import Quota

_ID: Final = r"[A-Za-z0-9_-]{1,64}"
OPEN: Final = {
    "GET": re.compile(
        r"/|/status|/config/?|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/example/[0-9]{1,3}"
        r"|/batch/example\.zip"
        r"|/(assets|static|svelte)/[A-Za-z0-9._@+/-]{1,200}"
        r"|/gradio_api/(info/?|openapi\.json|app_id/?|theme\.css|startup-events|upload_progress|queue/data"
        rf"|heartbeat/{_ID}|call/(v2/)?judge/{_ID}|file=(?!\w+:).{{1,1000}})"
    ),
    "POST": re.compile(r"/gradio_api/(upload|queue/join|cancel|reset/?|call/(v2/)?judge/?)"),
}
# Open only with an operations tab; page.operations.routes authenticates their callers.
OPERATIONS: Final = {
    "GET": re.compile(r"/ops/(panel|findings)"),
    "POST": re.compile(r"/ops/(login|logout|probe|cache)"),
}
# Open only with a login of the page; page.login answers them.
LOGGING_IN: Final = {"GET": re.compile(r"/login"), "POST": re.compile(r"/log(in|out)")}
# Open to callers without a key or a session: the login, and what is the same for everyone.
FREE: Final = re.compile(
    r"/log(in|out)|/theme\.css|/favicon\.ico|/robots\.txt|/manifest\.json|/(assets|static|svelte)/.*"
)
# The calls that are judged, each counted by the limits of a key.
JUDGED: Final = re.compile(r"/gradio_api/(queue/join|call/(v2/)?judge/?)")
METHODS: Final = {"GET": "GET", "HEAD": "GET", "POST": "POST"}
# The allowed query strings; any other is removed.
QUERIES: Final = {
    "/gradio_api/queue/data": re.compile(rf"session_hash={_ID}"),
    "/gradio_api/info": re.compile(r"all_endpoints=(true|false)", re.IGNORECASE),
    UPLOAD: re.compile(r".*"),
    PROGRESS: re.compile(r".*"),
}
STREAM: Final = re.compile(rf"/gradio_api/(?:call/(?:v2/)?judge/({_ID})|queue/data)")

JSON_BYTES: Final = 1_048_576
# Uploads are received up to this many times the service's limit, so that the page can refuse the picture in
# the user's language; a larger upload is refused at the connection.
UPLOAD_SLACK: Final = 4
MULTIPART_BYTES: Final = 65_536

HEADERS: Final = tuple(
    (name.encode(), value.encode())
    for name, value in {
        # Gradio's page needs inline scripts and eval; nothing is loaded from other hosts.
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
    """Return the size limit of an upload's body, where pictures may have ``max_bytes``."""
    return max_bytes * UPLOAD_SLACK + MULTIPART_BYTES


class Gate:
    """Passes on requests that are allowed, well-formed and small enough.

    ``max_bytes``: the size limit of a picture file; ``operations``: whether there is an operations tab;
    ``sessions``: those of Gradio's queue; ``identity``: who may ask, with or without a ``login`` of the page;
    ``root_path``: the path prefix that a proxy adds."""

    def __init__(
        self,
        app: App,
        *,
        max_bytes: int,
        operations: bool = False,
        login: bool = False,
        identity: Identity | None = None,
        calls: CallValidator | None = None,
        uploads: UploadRoutes | None = None,
        callers: Callers | None = None,
        memory: Quota | None = None,
        sessions: Sessions | None = None,
        root_path: str = "",
    ) -> None:
        self._app = app
        self._open = [OPEN, *([OPERATIONS] if operations else []), *([LOGGING_IN] if login else [])]
        self._login = login
        self._upload_bytes = upload_bytes(max_bytes)
        self._calls = calls
        self._uploads = uploads
        self._callers = callers or Callers()
        self._identity = identity or Identity(callers=self._callers)
        self._memory = memory or Quota(bodies.MEMORY_BYTES, bodies.MEMORY_PER_CALLER)
        self._root_path = root_path
        self._sessions = sessions
        self._closing = False

    def close(self) -> None:
        """Refuse new calls, so that accepted ones can be answered before the connections close."""
        self._closing = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
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
            # An upload is often refused while the client still sends it.
            drained = max(self._upload_bytes if scope["path"] == UPLOAD else 0, bodies.DRAINED_BYTES)
            await bodies.refuse(scope, body, send_with_headers, refused.reply(), drained)
        except ClientDisconnected:
            return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        check_headers(scope)
        if self._root_path and scope["path"] == self._root_path:
            await _redirect(self._root_path + "/", send)
            return
        scope = {**scope, "path": below_root(scope["path"], self._root_path)}
        self._check(scope)
        path = scope["path"]
        if self._login and path == "/" and not self._identity.has_session(scope):
            await _redirect(f"{self._root_path}/login", send, 303)
            return
        self._identify(scope)
        scope["headers"] = for_gradio(scope["headers"], trusted=self._callers.is_proxy(peer_of(scope)))
        if scope["method"] == "POST" and path != UPLOAD:
            await self._pass_on_json(scope, receive, send)
        elif self._uploads is not None and self._uploads.serves(path):
            await self._uploads(scope, bodies.limited(receive, self._upload_bytes), send)
        elif self._sessions is not None and (session := _session(scope)) is not None:
            try:
                with self._sessions.reading(session):
                    await self._pass_on(scope, receive, send)
            except AlreadyRead:
                raise Refused(
                    409, "Another connection already reads this session's answers.", code=CODE
                ) from None
        else:
            await self._pass_on(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        """Raise Refused for a request that is not allowed; remove a query that is not."""
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
            raise Refused(503, "The server is shutting down.")
        length = bodies.length(scope)
        if length is None and not bodies.values(scope, b"transfer-encoding"):
            raise Refused(411, "Content-Length is required.")
        if length is not None and length > (self._upload_bytes if path == UPLOAD else JSON_BYTES):
            raise bodies.too_large()

    def _identify(self, scope: Scope) -> None:
        """Note the caller in the scope. Raises Refused for one that may not ask, or not now."""
        if self._identity.required and FREE.fullmatch(scope["path"]):
            return
        try:
            caller = self._identity.identify(scope)
            if scope["method"] == "POST" and JUDGED.fullmatch(scope["path"]):
                self._identity.count(caller)
        except Denied as error:
            raise Refused(
                error.http_status,
                f"{error.message} {error.remedy}",
                code=error.code,
                headers=headers_of(error),
            ) from None
        scope["state"] = {**scope.get("state", {}), CALLER: caller}

    async def _pass_on_json(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the JSON body, validate a call to Gradio, and pass the request on."""
        validator = self._calls if scope["path"].startswith("/gradio_api/") else None
        if validator is not None and not is_json(scope["headers"]):
            raise Refused(415, "Send JSON, with Content-Type: application/json.", code=CODE)
        caller = caller_of(scope, self._callers)
        with bodies.memory_for(self._memory, caller, bodies.length(scope) or JSON_BYTES):
            body = await bodies.whole(receive, JSON_BYTES)
            if validator is not None:
                body = validator.validated(scope["path"], body)
        scope["headers"] = [
            *((name, value) for name, value in scope["headers"] if name not in FRAMING),
            (b"content-length", str(len(body)).encode()),
        ]
        await self._pass_on(scope, bodies.replayed(body, receive), send)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Gradio answer. Its exceptions go to the server's log, except those that the client caused."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            if not _refused_late(error):
                raise
            await send({"type": "http.response.body", "body": b""})


FRAMING: Final = (b"content-length", b"transfer-encoding")


def _session(scope: Scope) -> str | None:
    """Return the session or event whose answers the request streams, or None."""
    found = STREAM.fullmatch(scope["path"])
    if found is None or scope["method"] != "GET":
        return None
    return found[1] or scope["query_string"].decode("latin-1").partition("=")[2] or None


def _refused_late(error: Exception) -> bool:
    """Whether Gradio raised a 4xx after it had started to answer, e.g. for an unknown session."""
    from starlette.exceptions import HTTPException  # imported late, like all that Gradio brings

    return (
        isinstance(error, RuntimeError)
        and isinstance(error.__cause__, HTTPException)
        and error.__cause__.status_code < 500
    )


async def _redirect(to: str, send: Send, status: int = 308) -> None:
    headers: list[tuple[bytes, bytes]] = [(b"location", to.encode()), (b"content-length", b"0")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    body: dict[str, Any] = {"type": "http.response.body", "body": b""}
    await send(body)

"""The HTTP routes of the operations tab, with one check of the session's cookie in front.

They are not Gradio events: Gradio keeps a session's data under a name that the browser chooses, and sends it
to any client that knows the name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from page import calls
from page.operations import panel
from page.operations.access import Access, TooManyGuesses, WrongPassword, generated_password
from page.words import Language, language_of, say
from service.callers import Callers
from service.http.bodies import Refused
from service.http.headers import is_json
from service.http.log_limit import LogLimit
from service.operations import Finding, View
from service.process.restart_log import Restart
from service.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

log = logging.getLogger(__name__)
T = TypeVar("T")

LOGIN: Final = "/ops/login"
GUARDED: Final = {
    "/ops/panel": "GET",
    "/ops/findings": "GET",
    "/ops/probe": "POST",
    "/ops/cache": "POST",
    "/ops/logout": "POST",
}
LOG_SECONDS: Final = 60.0  # between two lines about passwords that were not checked
THREADS: Final = 2  # its own, since the intake threads may all be busy


class OperationsService(Protocol):
    """The part of ``service.operations.Operations`` that the tab uses."""

    def view(self) -> View: ...

    def restarts(self) -> Sequence[Restart]: ...

    def findings(self) -> Sequence[Finding] | None: ...

    def probe(self) -> bool: ...

    def empty_cache(self) -> int | None: ...


def access_of(settings: Settings) -> Access | None:
    """Return the tab's access control, or None if the tab is off. Raises SettingsError."""
    if settings.ops == "off":
        log.info("OPERATIONS | TAB=off")
        return None
    password = settings.read_ops_password()
    if password is not None:
        log.info("OPERATIONS | TAB=on | PASSWORD=configured")
        return Access(password)
    try:
        password, path = generated_password(settings.run_dir)
    except OSError as error:
        log.warning("OPERATIONS | TAB=off | ERROR=%s | MSG=cannot store a password", type(error).__name__)
        return None
    log.info("OPERATIONS | TAB=on | PASSWORD=generated | FILE=%s", path)
    return Access(password)


class OperationsRoutes:
    """The routes over one service. ``port`` is part of the cookie's name, since browsers send a host's
    cookies to all its ports; ``root_path`` is the path prefix that a proxy adds."""

    def __init__(
        self,
        service: OperationsService,
        access: Access,
        port: int,
        *,
        callers: Callers | None = None,
        root_path: str = "",
    ) -> None:
        self._service = service
        self._access = access
        self._callers = callers or Callers()
        self._path = root_path or "/"
        self._cookie = f"ofa_ops_{port}"
        self._unchecked = LogLimit(LOG_SECONDS)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="page-operations")

    def add_to(self, app: FastAPI) -> None:
        """Add all routes to ``app``, the GUARDED ones behind the session check."""
        for path, method in GUARDED.items():
            handler: Handler = getattr(self, f"_{path.rpartition('/')[2]}")
            app.add_route(path, self._guarded(handler), methods=[method])
        app.add_route(LOGIN, self._login, methods=["POST"])

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ---- access ------------------------------------------------------------------------------------------

    def _guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            language = language_of(request.headers.get("accept-language"))
            if request.method == "POST" and (refusal := _cross_site(request)):
                return refusal
            if not self._access.admits(request.cookies.get(self._cookie)):
                return _json({"html": panel.login(language)}, 401)
            return await handler(request, language)

        return answer

    async def _login(self, request: Request) -> Response:
        language = language_of(request.headers.get("accept-language"))
        caller = self._callers.of(request.client.host if request.client else "", request.headers)
        if refusal := _cross_site(request):
            return refusal
        try:
            token = self._access.log_in(_password(await request.body()), caller)
        except WrongPassword:
            log.warning("OPERATOR | ACTION=wrong_password | FROM=%s", caller)
            return _message(language, "ops.login.wrong", 401)
        except TooManyGuesses as many:
            if (more := self._unchecked.admit()) is not None:
                event = "OPERATOR | ACTION=too_many_guesses | FROM=%s | SECONDS=%d | MORE=%d"
                log.warning(event, caller, many.seconds, more)
            answer = _message(language, "ops.login.many", 429, seconds=many.seconds)
            answer.headers["retry-after"] = str(many.seconds)
            return answer
        log.info("OPERATOR | ACTION=login | FROM=%s", caller)
        answer = _json({})
        answer.set_cookie(
            self._cookie, token, path=self._path, httponly=True, samesite="strict", secure=_is_tls(request)
        )
        return answer

    # ---- handlers ----------------------------------------------------------------------------------------

    async def _panel(self, request: Request, language: Language) -> Response:
        view, restarts = await self._in_thread(lambda: (self._service.view(), self._service.restarts()))
        content = {
            "frame": panel.frame(language),
            "parts": panel.parts(view, restarts, language),
            "offline": say(language, "ops.away"),
        }
        return _json(content)

    async def _findings(self, request: Request, language: Language) -> Response:
        found = await self._in_thread(self._service.findings)
        return _json({"parts": {"findings": panel.findings(found, language)}})

    async def _probe(self, request: Request, language: Language) -> Response:
        done = self._service.probe()
        log.info("OPERATOR | ACTION=probe | DONE=%s", done)
        if done:
            return _message(language, "ops.probe.done")
        return _message(language, "ops.probe.refused", 409)

    async def _cache(self, request: Request, language: Language) -> Response:
        freed = await self._in_thread(self._service.empty_cache)
        log.info("OPERATOR | ACTION=empty_cache | BYTES=%s", freed)
        if freed is None:
            return _message(language, "ops.cache.refused", 409)
        return _message(language, "ops.cache.done", megabytes=freed // 1_000_000)

    async def _logout(self, request: Request, language: Language) -> Response:
        self._access.log_out(request.cookies.get(self._cookie))
        answer = _json({})
        answer.delete_cookie(self._cookie, path=self._path, httponly=True, samesite="strict")
        return answer

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


Handler = Callable[["Request", Language], Awaitable["Response"]]


def _password(body: bytes) -> str:
    """Return the password from a JSON body; "", which is never valid, for any other body."""
    try:
        content = calls.read(body)
    except Refused:
        return ""
    password = content.get("password") if isinstance(content, dict) else None
    return password if isinstance(password, str) else ""


def _cross_site(request: Request) -> Response | None:
    """Return the refusal of a POST that a page of another site may have caused, or None.

    A cross-site page cannot send JSON without a CORS preflight; programs send no Origin."""
    if not is_json(request.headers.raw):
        return _json({}, 415)
    origin = request.headers.get("origin")
    if origin is not None and not _same_site(origin, _host(request)):
        return _json({"message": "Cross-origin requests are not allowed."}, 403)
    return None


def _host(request: Request) -> str:
    """Return the host that the browser used. The gate passes X-Forwarded-Host only from a trusted proxy."""
    return request.headers.get("x-forwarded-host") or request.headers.get("host", "")


def _same_site(origin: str, host: str) -> bool:
    scheme, _, address = origin.lower().partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme, "")
    return bool(port) and address.removesuffix(port) == host.lower().removesuffix(port)


def _is_tls(request: Request) -> bool:
    """Whether the browser uses TLS, according to the connection or a trusted proxy."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))


def _message(language: Language, key: str, status: int = 200, **values: object) -> Response:
    return _json({"message": say(language, key, **values)}, status)


def _json(content: dict[str, Any], status: int = 200) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status, headers={"cache-control": "no-store"})

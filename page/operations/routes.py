"""The operations tab's calls: plain HTTP beside Gradio's, so that every one of them passes one guard.

Gradio keeps a session's data by a name that the browser makes up, and sends it to whoever says that name.
What operators see is not for that: here each call shows its session's cookie and is answered by itself.
``GUARDED`` lists every call but the one that logs in.
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
from page.bodies import Refused
from page.headers import is_form_of_json
from page.log_limit import LogLimit
from page.words import Language, language_of, say
from service.callers import Callers
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
LOG_SECONDS: Final = 60.0  # between two lines on guesses that are not looked at
THREADS: Final = 2  # of our own: those that decode pictures are busiest when an operator looks


class OperationsService(Protocol):
    """What the tab needs of the service: ``service.operations``."""

    def view(self) -> View: ...

    def restarts(self) -> Sequence[Restart]: ...

    def findings(self) -> Sequence[Finding] | None: ...

    def probe(self) -> bool: ...

    def empty_cache(self) -> int | None: ...


def access_of(settings: Settings) -> Access | None:
    """Who may see the tab by these settings; None if it is not there at all. Raises SettingsError."""
    if settings.ops == "off":
        log.info("OPERATIONS | TAB=off")
        return None
    password = settings.read_ops_password()
    if password is not None:
        log.info("OPERATIONS | TAB=on | PASSWORD=given")
        return Access(password)
    try:
        password, path = generated_password(settings.run_dir)
    except OSError as error:
        log.warning("OPERATIONS | TAB=off | ERROR=%s | MSG=No password could be kept.", type(error).__name__)
        return None
    log.info("OPERATIONS | TAB=on | PASSWORD=made | FILE=%s", path)
    return Access(password)


class OperationsRoutes:
    """The calls over one service. ``port`` names the cookie: browsers give a host's cookies to all its ports.
    ``root_path`` is the part of the path that a proxy puts before ours."""

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
        self._unread = LogLimit(LOG_SECONDS)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="page-operations")

    def add_to(self, app: FastAPI) -> None:
        """Enter every call into ``app``, the guarded ones behind the guard."""
        for path, method in GUARDED.items():
            handler: Handler = getattr(self, f"_{path.rpartition('/')[2]}")
            app.add_route(path, self._guarded(handler), methods=[method])
        app.add_route(LOGIN, self._login, methods=["POST"])

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ---- who asks ----------------------------------------------------------------------------------------

    def _guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            language = language_of(request.headers.get("accept-language"))
            if request.method == "POST" and (refusal := _refusal(request)):
                return refusal
            if not self._access.admits(request.cookies.get(self._cookie)):
                return _json({"html": panel.login(language)}, 401)
            return await handler(request, language)

        return answer

    async def _login(self, request: Request) -> Response:
        language = language_of(request.headers.get("accept-language"))
        caller = self._callers.of(request.client.host if request.client else "", request.headers)
        if refusal := _refusal(request):
            return refusal
        try:
            token = self._access.log_in(_password(await request.body()), caller)
        except WrongPassword:
            log.warning("OPERATOR | WRONG_PASSWORD | FROM=%s", caller)
            return _json({"told": say(language, "ops.login.wrong")}, 401)
        except TooManyGuesses as many:
            if self._unread.allows():
                log.warning(
                    "OPERATOR | TOO_MANY_GUESSES | FROM=%s | SECONDS=%d | MORE=%d",
                    *(caller, many.seconds, self._unread.suppressed()),
                )
            answer = _json({"told": say(language, "ops.login.many", seconds=many.seconds)}, 429)
            answer.headers["retry-after"] = str(many.seconds)
            return answer
        log.info("OPERATOR | LOGGED_IN | FROM=%s", caller)
        answer = _json({}, 200)
        answer.set_cookie(
            self._cookie, token, path=self._path, httponly=True, samesite="strict", secure=_is_tls(request)
        )
        return answer

    # ---- what is answered --------------------------------------------------------------------------------

    async def _panel(self, request: Request, language: Language) -> Response:
        view, restarts = await self._in_thread(lambda: (self._service.view(), self._service.restarts()))
        content = {
            "frame": panel.frame(language),
            "parts": panel.parts(view, restarts, language),
            "away": say(language, "ops.away"),
        }
        return _json(content, 200)

    async def _findings(self, request: Request, language: Language) -> Response:
        found = await self._in_thread(self._service.findings)
        return _json({"parts": {"findings": panel.findings(found, language)}}, 200)

    async def _probe(self, request: Request, language: Language) -> Response:
        done = self._service.probe()
        log.info("OPERATOR | PROBE | DONE=%s", done)
        return _json(
            {"told": say(language, f"ops.probe.{'done' if done else 'refused'}")}, 200 if done else 409
        )

    async def _cache(self, request: Request, language: Language) -> Response:
        freed = await self._in_thread(self._service.empty_cache)
        log.info("OPERATOR | CACHE_EMPTIED | BYTES=%s", freed)
        if freed is None:
            return _json({"told": say(language, "ops.cache.refused")}, 409)
        return _json({"told": say(language, "ops.cache.done", megabytes=freed // 1_000_000)}, 200)

    async def _logout(self, request: Request, language: Language) -> Response:
        self._access.log_out(request.cookies.get(self._cookie))
        answer = _json({}, 200)
        answer.delete_cookie(self._cookie, path=self._path, httponly=True, samesite="strict")
        return answer

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


Handler = Callable[["Request", Language], Awaitable["Response"]]


def _password(body: bytes) -> str:
    """What a body gives as the password; "", which is none, for a body that is not understood."""
    try:
        content = calls.read(body)
    except Refused:
        return ""
    password = content.get("password") if isinstance(content, dict) else None
    return password if isinstance(password, str) else ""


def _refusal(request: Request) -> Response | None:
    """The answer to a call that changes something and that another site's page may have made a browser send,
    or None. Programs send no Origin; that a body is JSON a page of another site would have to ask for."""
    if not is_form_of_json(request.headers.raw):
        return _json({}, 415)
    origin = request.headers.get("origin")
    if origin is not None and not _same_site(origin, _host(request)):
        return _json({"told": "Origin is not the address of this page."}, 403)
    return None


def _host(request: Request) -> str:
    """The name under which the page was asked for. The gate leaves what a trusted proxy says of it."""
    return request.headers.get("x-forwarded-host") or request.headers.get("host", "")


def _same_site(origin: str, host: str) -> bool:
    scheme, _, place = origin.lower().partition("://")
    port = {"http": ":80", "https": ":443"}.get(scheme, "")
    return bool(port) and place.removesuffix(port) == host.lower().removesuffix(port)


def _is_tls(request: Request) -> bool:
    """Whether the browser's side is encrypted, as a trusted proxy says where there is one."""
    return "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))


def _json(content: dict[str, Any], status: int) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status, headers={"cache-control": "no-store"})

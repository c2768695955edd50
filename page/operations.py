"""The operations tab's calls: plain HTTP beside Gradio's, so that every one of them passes one guard.

Gradio keeps a session's data by a name that the browser makes up, and sends it to whoever says that name.
What operators see is not for that: here each call shows its session's cookie, or comes from this machine
where no password is set, and is answered by itself. ``GUARDED`` lists every call but the one that logs in.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from page import panel
from page.access import Access, Caller, TooManyGuesses, WrongPassword, is_loopback
from page.words import Language, language_of, say
from service.operations import Finding, View
from service.restarts import Restart
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
THREADS: Final = 2  # of our own: those that decode pictures are busiest when an operator looks


class Desk(Protocol):
    """What the tab needs of the service: ``service.operations``."""

    def view(self) -> View: ...

    def restarts(self) -> Sequence[Restart]: ...

    def findings(self) -> Sequence[Finding] | None: ...

    def probe(self) -> bool: ...

    def empty_cache(self) -> int | None: ...


def access_of(settings: Settings) -> Access | None:
    """Who may see the tab by these settings; None if it is not there at all. Raises SettingsError."""
    password = settings.read_ops_password()
    if settings.ops == "off" or (password is None and not is_loopback(settings.host)):
        return None
    return Access(password)


class OperationsCalls:
    """The calls over one desk. ``port`` names the cookie: browsers give a host's cookies to all its ports."""

    def __init__(self, desk: Desk, access: Access, port: int) -> None:
        self._desk = desk
        self._access = access
        self._cookie = f"ofa_ops_{port}"
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
            if not self._access.admits(self._caller(request)):
                asks = self._access.asks_password
                return _json({"html": (panel.login if asks else panel.elsewhere)(language)}, 401)
            if request.method == "POST" and not _is_json(request):
                return _json({}, 415)
            return await handler(request, language)

        return answer

    def _caller(self, request: Request) -> Caller:
        address = request.client.host if request.client else ""
        return Caller(address, request.headers, request.cookies.get(self._cookie))

    async def _login(self, request: Request) -> Response:
        language = language_of(request.headers.get("accept-language"))
        address = request.client.host if request.client else ""
        if not _is_json(request):
            return _json({}, 415)
        try:
            token = self._access.log_in(_password(await request.body()), address)
        except WrongPassword:
            log.warning("OPERATOR | WRONG_PASSWORD | FROM=%s", address)
            return _json({"told": say(language, "ops.login.wrong")}, 401)
        except TooManyGuesses as many:
            answer = _json({"told": say(language, "ops.login.many", seconds=many.seconds)}, 429)
            answer.headers["retry-after"] = str(many.seconds)
            return answer
        log.info("OPERATOR | LOGGED_IN | FROM=%s", address)
        answer = _json({}, 200)
        answer.set_cookie(
            self._cookie, token, httponly=True, samesite="strict", secure=request.url.scheme == "https"
        )
        return answer

    # ---- what is answered --------------------------------------------------------------------------------

    async def _panel(self, request: Request, language: Language) -> Response:
        view, restarts = await self._in_thread(lambda: (self._desk.view(), self._desk.restarts()))
        session = self._access.asks_password
        content = {
            "frame": panel.frame(language),
            "parts": panel.parts(view, restarts, language, session=session),
            "away": say(language, "ops.away"),
        }
        return _json(content, 200)

    async def _findings(self, request: Request, language: Language) -> Response:
        found = await self._in_thread(self._desk.findings)
        return _json({"parts": {"findings": panel.findings(found, language)}}, 200)

    async def _probe(self, request: Request, language: Language) -> Response:
        done = self._desk.probe()
        log.info("OPERATOR | PROBE | DONE=%s", done)
        return _json(
            {"told": say(language, f"ops.probe.{'done' if done else 'refused'}")}, 200 if done else 409
        )

    async def _cache(self, request: Request, language: Language) -> Response:
        freed = await self._in_thread(self._desk.empty_cache)
        log.info("OPERATOR | CACHE_EMPTIED | BYTES=%s", freed)
        if freed is None:
            return _json({"told": say(language, "ops.cache.refused")}, 409)
        return _json({"told": say(language, "ops.cache.done", megabytes=freed // 1_000_000)}, 200)

    async def _logout(self, request: Request, language: Language) -> Response:
        self._access.log_out(request.cookies.get(self._cookie))
        answer = _json({}, 200)
        answer.delete_cookie(self._cookie, httponly=True, samesite="strict")
        return answer

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


Handler = Callable[["Request", Language], Awaitable["Response"]]


def _password(body: bytes) -> str:
    """What a body gives as the password; "", which is none, for a body that is not understood."""
    try:
        told = json.loads(body)
    except ValueError:
        return ""
    password = told.get("password") if isinstance(told, dict) else None
    return password if isinstance(password, str) else ""


def _is_json(request: Request) -> bool:
    """A stranger's page can make a browser post a form here, but not JSON: that it would have to ask for."""
    return request.headers.get("content-type", "").partition(";")[0].strip() == "application/json"


def _json(content: dict[str, Any], status: int) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status, headers={"cache-control": "no-store"})

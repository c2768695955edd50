"""The HTTP routes of the operations tab, with one check of the session's cookie in front.

They are not Gradio events: Gradio keeps a session's data under a name that the browser chooses, and sends it
to any client that knows the name.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final, Protocol, TypeVar

from page.access import Access, generated_password
from page.login import Login, as_json, message
from page.operations import panel
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
        self._login = Login(
            access, cookie=f"ofa_ops_{port}", event="OPERATOR", callers=callers, root_path=root_path
        )
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="page-operations")

    def add_to(self, app: FastAPI) -> None:
        """Add all routes to ``app``, the GUARDED ones behind the session check."""
        for path, method in GUARDED.items():
            handler: Handler = getattr(self, f"_{path.rpartition('/')[2]}")
            app.add_route(path, self._guarded(handler), methods=[method])
        app.add_route(LOGIN, self._login.log_in, methods=["POST"])

    def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

    # ---- access ------------------------------------------------------------------------------------------

    def _guarded(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            language = language_of(request.headers.get("accept-language"))
            if request.method == "POST" and (refusal := self._login.cross_site(request)):
                return refusal
            if not self._login.admits(request.cookies.get(self._login.cookie)):
                return as_json({"html": panel.login(language)}, 401)
            return await handler(request, language)

        return answer

    # ---- handlers ----------------------------------------------------------------------------------------

    async def _panel(self, request: Request, language: Language) -> Response:
        view, restarts = await self._in_thread(lambda: (self._service.view(), self._service.restarts()))
        content = {
            "frame": panel.frame(language),
            "parts": panel.parts(view, restarts, language),
            "offline": say(language, "ops.away"),
        }
        return as_json(content)

    async def _findings(self, request: Request, language: Language) -> Response:
        found = await self._in_thread(self._service.findings)
        return as_json({"parts": {"findings": panel.findings(found, language)}})

    async def _probe(self, request: Request, language: Language) -> Response:
        done = self._service.probe()
        log.info("OPERATOR | ACTION=probe | DONE=%s", done)
        if done:
            return message(language, "ops.probe.done")
        return message(language, "ops.probe.refused", 409)

    async def _cache(self, request: Request, language: Language) -> Response:
        freed = await self._in_thread(self._service.empty_cache)
        log.info("OPERATOR | ACTION=empty_cache | BYTES=%s", freed)
        if freed is None:
            return message(language, "ops.cache.refused", 409)
        return message(language, "ops.cache.done", megabytes=freed // 1_000_000)

    async def _logout(self, request: Request, language: Language) -> Response:
        return await self._login.log_out(request)

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)


Handler = Callable[["Request", Language], Awaitable["Response"]]

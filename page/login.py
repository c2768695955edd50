"""Logins over HTTP: the routes of one password, and the login page of the page itself."""

from __future__ import annotations

import logging
from html import escape
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any, Final

from page import calls
from page.access import Access, TooManyGuesses, WrongPassword
from page.words import Language, language_of, say
from service.callers import Callers
from service.http.bodies import Refused
from service.http.headers import is_json
from service.http.log_limit import LogLimit
from service.http.origin import same_origin
from service.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

LOGIN: Final = "/login"
LOGOUT: Final = "/logout"
MAX_SESSIONS: Final = 1024  # of the page; the oldest ends first
LOG_SECONDS: Final = 60.0  # between two lines about passwords that were not checked
PAGE: Final = Path(__file__).parent / "login.html"
log = logging.getLogger(__name__)


class Login:
    """Login and logout with one password. ``event`` begins the log lines, ``cookie`` is the name of the
    session's cookie, ``root_path`` is the path prefix that a proxy adds."""

    def __init__(
        self,
        access: Access,
        *,
        cookie: str,
        event: str,
        callers: Callers | None = None,
        root_path: str = "",
    ) -> None:
        self.cookie = cookie
        self._access = access
        self._event = event
        self._callers = callers or Callers()
        self._path = root_path or "/"
        self._unchecked = LogLimit(LOG_SECONDS)

    def admits(self, token: str | None) -> bool:
        """Whether ``token``, from the cookie, names a valid session; mark it as used."""
        return self._access.admits(token)

    def cross_site(self, request: Request) -> Response | None:
        """Return the refusal of a POST that a page of another site may have caused, or None.

        A cross-site page cannot send JSON without a CORS preflight; programs send no Origin."""
        if not is_json(request.headers.raw):
            return as_json({}, 415)
        if not same_origin(request.scope, self._callers):
            return as_json({"message": "Cross-origin requests are not allowed."}, 403)
        return None

    async def log_in(self, request: Request) -> Response:
        """Begin a session if the body is ``{"password": …}`` with the right one."""
        language = language_of(request.headers.get("accept-language"))
        caller = self._callers.of(request.client.host if request.client else "", request.headers)
        if refusal := self.cross_site(request):
            return refusal
        try:
            token = self._access.log_in(_password(await request.body()), caller)
        except WrongPassword:
            log.warning("%s | ACTION=wrong_password | FROM=%s", self._event, caller)
            return message(language, "ops.login.wrong", 401)
        except TooManyGuesses as many:
            if (more := self._unchecked.admit()) is not None:
                event = "%s | ACTION=too_many_guesses | FROM=%s | SECONDS=%d | MORE=%d"
                log.warning(event, self._event, caller, many.seconds, more)
            answer = message(language, "ops.login.many", 429, seconds=many.seconds)
            answer.headers["retry-after"] = str(many.seconds)
            return answer
        log.info("%s | ACTION=login | FROM=%s", self._event, caller)
        answer = as_json({})
        tls = "https" in (request.url.scheme, request.headers.get("x-forwarded-proto"))
        answer.set_cookie(self.cookie, token, path=self._path, httponly=True, samesite="strict", secure=tls)
        return answer

    async def log_out(self, request: Request) -> Response:
        """End the session."""
        if refusal := self.cross_site(request):
            return refusal
        self._access.log_out(request.cookies.get(self.cookie))
        answer = as_json({})
        answer.delete_cookie(self.cookie, path=self._path, httponly=True, samesite="strict")
        return answer

    def add_to(self, app: FastAPI) -> None:
        """Add the login page and its routes, for the login of the page itself."""
        app.add_route(LOGIN, _page, methods=["GET"])
        app.add_route(LOGIN, self.log_in, methods=["POST"])
        app.add_route(LOGOUT, self.log_out, methods=["POST"])


def page_login(settings: Settings, port: int, callers: Callers) -> Login | None:
    """Return the login of the page on ``port``, or None without a password. Raises SettingsError."""
    password = settings.read_page_password()
    if password is None:
        return None
    access = Access(password, sessions=MAX_SESSIONS)
    # The port is part of the cookie's name, since browsers send a host's cookies to all its ports.
    return Login(
        access,
        cookie=f"ofa_page_{port}",
        event="PAGE_LOGIN",
        callers=callers,
        root_path=settings.root_path,
    )


def message(language: Language, key: str, status: int = 200, **values: object) -> Response:
    """Return a text as the answer of a route."""
    return as_json({"message": say(language, key, **values)}, status)


def as_json(content: dict[str, Any], status: int = 200) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse(content, status, headers={"cache-control": "no-store"})


async def _page(request: Request) -> Response:
    from starlette.responses import HTMLResponse

    language = language_of(request.headers.get("accept-language"))
    names = {"title": "login.title", "text": "login.text", "offline": "login.offline"}
    names |= {"label": "ops.login.label", "button": "ops.login.button"}
    texts = {name: escape(say(language, key)) for name, key in names.items()}
    html = Template(PAGE.read_text(encoding="utf-8")).substitute(texts, language=language)
    return HTMLResponse(html, headers={"cache-control": "no-store", "vary": "accept-language"})


def _password(body: bytes) -> str:
    """Return the password from a JSON body; "", which is never valid, for any other body."""
    try:
        content = calls.read(body)
    except Refused:
        return ""
    password = content.get("password") if isinstance(content, dict) else None
    return password if isinstance(password, str) else ""

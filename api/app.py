"""The API for programs: its ASGI application, and the site that service.front serves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, Final

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import BaseRoute

from api import problems
from api.batches import add_batches
from api.calls import Application, Calls, max_concurrent
from api.context import REQUEST_ID, attach, context_of, identify
from api.docs import add_docs
from api.judge import add_judge
from api.model import add_model
from api.observed import Observed
from api.problems import Problem
from api.schema import add_schema
from api.v2 import add_v2
from batch.batches import Batches
from service.callers import Callers
from service.contract.causes import Refusal
from service.contract.errors import Denied
from service.http import bodies
from service.http.bodies import App, Body, ClientDisconnected, Message, Receive, Refused, Reply, Scope, Send
from service.http.headers import below_root, check_headers
from service.http.identity import Identity
from service.settings import Settings

PREFIXES: Final = ("/v1", "/v2", "/openapi.json", "/docs")
#: Open to callers without a key or a session.
FREE: Final = re.compile(r"/openapi\.json|/docs|/v2/health/(live|ready)")
STORING: Final = 8  # threads that read and write batches
_BODY: Final = "ofa.body"
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
)


def create_api(
    application: Application,
    settings: Settings,
    *,
    callers: Callers | None = None,
    intake: Executor,
    identity: Identity | None = None,
    batches: Batches | None = None,
    storing: Executor | None = None,
) -> Api:
    """Make the API over ``application``. Starts nothing. ``intake`` runs the calls that read pictures;
    ``identity`` decides who may ask, by default everyone; without ``batches`` their paths answer
    ``not_here``, and ``storing`` runs what reads and writes them."""
    routes = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    callers = callers or Callers(settings.trusted_proxies)
    identity = identity or Identity(callers=callers)
    calls = Calls(application, settings, intake, identity)
    add_judge(routes, calls, application)
    add_model(routes, application, settings)
    add_batches(routes, batches, storing or intake, identity, settings.root_path)
    add_v2(routes, calls, application)
    made = add_schema(routes)
    add_docs(routes, made)
    return Api(routes, calls, made, callers, identity, settings.root_path)


class Api:
    """ASGI middleware around the routes: request id, framing, headers, and every error as a problem.

    ``schema`` is the OpenAPI document.
    """

    def __init__(
        self,
        routes: FastAPI,
        calls: Calls,
        schema: Mapping[str, Any],
        callers: Callers,
        identity: Identity,
        root_path: str = "",
    ) -> None:
        self.schema = schema
        self._routes = routes
        self._calls = calls
        self._callers = callers
        self._identity = identity
        self._root_path = root_path
        self._closing = False
        for raised in (HTTPException, Problem, Refused, Denied, Exception):
            routes.add_exception_handler(raised, _refusal)
        routes.add_exception_handler(ClientDisconnected, _nothing)

    @property
    def routes(self) -> Sequence[BaseRoute]:
        return self._routes.routes

    def close(self) -> None:
        """Refuse new calls, so that accepted ones can be answered before the connections close."""
        self._closing = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        scope["path"] = below_root(scope["path"], self._root_path)
        context = attach(scope, self._callers)
        body = scope[_BODY] = Body(receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = with_headers(message.get("headers", []), context.request_id)
            await send(message)

        with ExitStack() as held:
            try:
                check_headers(scope)
                bodies.check_framing(scope)
                if self._closing:
                    raise Problem(Refusal.STOPPING)
                if not FREE.fullmatch(scope["path"]):
                    caller = identify(scope, self._identity)
                    if scope["method"] == "POST":
                        held.enter_context(self._identity.admitted(caller))
            except (Refused, Problem, Denied) as error:
                await bodies.refuse(scope, body, send_with_headers, reply_to(scope, error))
                return
            await self._routes(scope, body.receive, send_with_headers)


class ApiSite:
    """The API with its threads, as a site of service.front."""

    lifespan = False

    def __init__(
        self,
        application: Application,
        settings: Settings,
        identity: Identity | None = None,
        batches: Batches | None = None,
    ) -> None:
        # One thread per concurrent call: a call that waits for a thread would wait outside the queue.
        self._intake = ThreadPoolExecutor(max_concurrent(settings), thread_name_prefix="api-intake")
        self._storing = ThreadPoolExecutor(STORING, thread_name_prefix="api-batches")
        self._api = create_api(
            application,
            settings,
            intake=self._intake,
            identity=identity,
            batches=batches,
            storing=self._storing,
        )
        self._observed = Observed(self._api, application.http_metrics, self._api.routes, settings.root_path)

    def start(self, port: int) -> App:
        return self._observed

    def drain(self) -> None:
        """Refuse new calls. The server itself waits for running ones."""
        self._api.close()

    def close(self) -> None:
        self._intake.shutdown(wait=False, cancel_futures=True)
        self._storing.shutdown(wait=False, cancel_futures=True)


async def _refusal(request: Request, error: Exception) -> Any:
    """Return the ASGI application that answers with an error."""
    answer = reply_to(request.scope, error)

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        await bodies.refuse(scope, scope[_BODY], send, answer)

    return refuse


async def _nothing(request: Request, error: Exception) -> Any:
    """Return the ASGI application for a client that has disconnected."""

    async def ignore(scope: Scope, receive: Receive, send: Send) -> None:
        return

    return ignore


def reply_to(scope: Scope, error: Exception) -> Reply:
    """Map any error to an answer. An unexpected one is logged by the server."""
    if isinstance(error, HTTPException):
        error = problems.of_status(error.status_code, error.headers)
    elif isinstance(error, Denied):
        error = problems.of_denied(error)
    elif isinstance(error, Refused):
        error = problems.of_refused(error)
    elif not isinstance(error, Problem):
        error = Problem("error")
    more = {"error": error.code} if scope["path"].startswith("/v2") else None
    return problems.reply(error, context_of(scope), more)


def with_headers(headers: list[tuple[bytes, bytes]], request_id: str) -> list[tuple[bytes, bytes]]:
    """Add HEADERS, except those that the answer already has, and the request's id."""
    present = {name for name, _ in headers}
    added = [(name, value) for name, value in HEADERS if name not in present]
    return [*headers, *added, (REQUEST_ID, request_id.encode())]

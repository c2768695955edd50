"""The HTTP front: receives a whole request, has a replica answer it, and retries once if the replica fails.

It knows no route of the API: paths, keys and bodies are the replica's business. Its own are the health of the
whole and the list of the replicas for Prometheus.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from typing import Any, Final

from ray import serve
from ray.exceptions import RayActorError, RayError, TaskCancelledError, WorkerCrashedError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, RayServeException
from ray.serve.handle import DeploymentHandle

from api.app import FREE, reply_to, with_headers
from api.bodies import JSON_COPIES, Limits, received
from api.context import attach, context_of, identify
from api.problems import Problem
from cluster import readiness
from cluster.arguments import settings_of
from cluster.inprocess import Call
from cluster.run_dir import open_run_dir
from service.api_keys import ApiKeys
from service.callers import Callers
from service.contract.causes import ApiCode, Refusal
from service.contract.errors import Denied
from service.http import bodies
from service.http.bodies import App, Body, ClientDisconnected, Message, Receive, Refused, Reply, Scope, Send
from service.http.headers import below_root, check_headers, peer_of
from service.http.identity import Identity
from service.settings import Settings

#: A replica that takes longer to say that it has a request counts as stopped; the request goes to another.
RECEIPT_SECONDS: Final = 2.0
RECEIPT_PER_BYTE: Final = 0.2 / (1 << 20)  # more for the body's way there; a slow network's 5 MB/s
#: The replica itself answers at the time limit; this bounds the wait if it does not.
SPARE_SECONDS: Final = 1.0
#: How long a report of a replica counts. Longer than Ray's controller takes to start again.
EVIDENCE_SECONDS: Final = 15.0
#: Ray's errors for a replica that died or cannot be reached, and for a request that Ray itself cancelled.
LOST: Final = (RayActorError, WorkerCrashedError, TaskCancelledError)
#: A replica that answers with one of these has not begun.
ELSEWHERE: Final = frozenset({Refusal.STOPPING, Refusal.LOADING})
OWN_PATHS: Final = ("/health", "/readyz", "/livez", "/targets")
#: Headers of a replica's answer that belong to the connection, or are added again here.
_OWN: Final = frozenset({b"connection", b"content-length", b"x-request-id"})
log = logging.getLogger(__name__)


@serve.ingress()
class Ingress:
    """The deployment. ``judge`` is the handle of the replicas, ``flags`` are theirs."""

    def __init__(self, judge: DeploymentHandle[Any], flags: list[str]) -> None:
        self._cleanup = ExitStack()
        settings, _ = open_run_dir(settings_of(flags), "ingress", self._cleanup)
        self._front = Front(judge, settings)

    def __del__(self) -> None:
        if (cleanup := getattr(self, "_cleanup", None)) is not None:
            cleanup.close()

    async def __serve_build_asgi_app__(self) -> App:
        return self._front

    def record_routing_stats(self) -> dict[str, Any]:
        """Report to the router in Ray's HTTP proxy, so that it avoids an ingress that is stopped."""
        return {"beat": int(time.monotonic())}


class Front:
    """The ASGI application."""

    def __init__(self, judge: DeploymentHandle[Any], settings: Settings) -> None:
        self._settings = settings
        self._judge = judge.options(stream=True)
        self._limits = Limits(self._settings)
        self._callers = Callers(self._settings.trusted_proxies)
        file = self._settings.api_keys_file
        keys = ApiKeys(file) if file is not None else None
        self._identity = Identity(keys, callers=self._callers)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        context = attach(scope, self._callers)
        body = Body(receive)

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = with_headers(list(message.get("headers", [])), context.request_id)
            await send(message)

        try:
            check_headers(scope)
            bodies.check_framing(scope)
            path = below_root(scope["path"], self._settings.root_path)
            reply = self._own(scope["method"], path)
            if reply is None:
                if not FREE.fullmatch(path):  # no memory for strangers; the replica counts and limits
                    identify(scope, self._identity)
                reply = await self._from_replica(scope, body.receive)
        except ClientDisconnected:
            return
        except (Problem, Refused, Denied) as error:
            await bodies.refuse(scope, body, send_with_headers, reply_to(scope, error))
            return
        await _send(reply, send_with_headers)

    def _own(self, method: str, path: str) -> Reply | None:
        """Answer what is not the API's. Raises Problem."""
        if path not in OWN_PATHS:
            return None
        if method not in ("GET", "HEAD"):
            raise Problem(ApiCode.METHOD_NOT_ALLOWED, headers={"allow": "GET, HEAD"})
        match path:
            case "/health":
                reply = health()
            case "/targets":
                reply = targets()
            case _:
                reply = check("ready" if path == "/readyz" else "live")
        return reply._replace(body=b"") if method == "HEAD" else reply

    async def _from_replica(self, scope: Scope, receive: Receive) -> Reply:
        """Receive the body, and return a replica's answer. Raises Problem, Refused and ClientDisconnected."""
        limits = self._limits
        with limits.held(scope) as held:
            most = max(limits.form, limits.json)
            arriving = received(scope, receive, limits, held, most=most, copies=JSON_COPIES)
            body = b"".join([piece async for piece in arriving])
            call = Call(
                scope["method"],
                scope["path"],
                scope["query_string"],
                _headers(scope),
                body,
                peer_of(scope),
            )
            return await self._relay(call, time.monotonic())

    async def _relay(self, call: Call, arrived: float) -> Reply:
        """Return a replica's answer to a call that was complete at ``arrived``. Raises Problem."""
        try:
            async with asyncio.timeout(self._settings.timeout + SPARE_SECONDS):
                return await self._ask(call, arrived)
        except TimeoutError:
            raise Problem("timeout") from None
        except BackPressureError:
            raise Problem(Refusal.QUEUE_FULL) from None
        except DeploymentUnavailableError:
            raise Problem(Refusal.LOADING) from None
        except LOST as error:
            log.warning("NO_INSTANCE | ERROR=%s", type(error).__name__)
            raise Problem(Refusal.NO_INSTANCE) from None
        except (RayError, RayServeException, StopAsyncIteration) as error:
            log.error("NO_ANSWER | ERROR=%s", type(error).__name__)
            raise Problem("error") from None

    async def _ask(self, call: Call, arrived: float) -> Reply:
        """Ask a replica, and another if it was lost or has not begun. Not more often: a picture that crashes
        its process would crash one for each try."""
        try:
            limit = RECEIPT_SECONDS + RECEIPT_PER_BYTE * len(call.body)
            reply = await self._ask_once(call, arrived, limit)
            if not _elsewhere(reply):
                return reply
            log.warning("ASKED_AGAIN | REASON=not_begun")
        except _NoReceipt:
            log.warning("ASKED_AGAIN | REASON=no_receipt")
        except LOST as error:
            log.warning("ASKED_AGAIN | REASON=lost | ERROR=%s", type(error).__name__)
        return await self._ask_once(call, arrived, None)

    async def _ask_once(self, call: Call, arrived: float, receipt_seconds: float | None) -> Reply:
        """Ask one replica. Raises _NoReceipt if it does not take the request in time, and Ray's errors."""
        response = self._judge.answer.remote(*call, spent=time.monotonic() - arrived)
        complete = False
        try:
            try:
                async with asyncio.timeout(receipt_seconds) as receipt:
                    await anext(response)
            except TimeoutError:
                if receipt.expired():
                    raise _NoReceipt from None
                raise
            reply = Reply(*await anext(response))
            complete = True
            return reply
        finally:
            if not complete:
                response.cancel()  # to stop waiting alone would leave the replica computing


class _NoReceipt(Exception):
    """A replica did not say in time that it has a request."""


# ---- the whole -------------------------------------------------------------------------------------------


def health() -> Reply:
    """Return 200 if a replica is healthy."""
    replicas = [
        {
            "name": report.get("name"),
            "node": report.get("node"),
            "pid": report.get("pid"),
            "healthy": _word(report, age, "healthy"),
            "ready": _word(report, age, "ready"),
            "reason": report.get("why"),
            "age_seconds": round(age, 1),
        }
        for _, report, age in readiness.reports()
    ]
    healthy = any(one["healthy"] for one in replicas)
    content = {"status": "healthy" if healthy else "unhealthy", "replicas": replicas}
    return _json(content, 200 if healthy else 503)


def check(word: str) -> Reply:
    """Return 200 if ``word`` of a replica's report is true."""
    words = [_word(report, age, word) for _, report, age in readiness.reports()]
    text = f"{sum(words)} of {len(words)} replicas {word}"
    return Reply(200 if any(words) else 503, [(b"content-type", b"text/plain; charset=utf-8")], text.encode())


def targets() -> Reply:
    """Return the health APIs of the replicas in the form of Prometheus' http_sd_configs."""
    found = [
        {"targets": [report["health"]], "labels": {"replica": report["name"]}}
        for _, report, age in readiness.reports()
        if "health" in report and age <= EVIDENCE_SECONDS
    ]
    return _json(found, 200)


def _word(report: Mapping[str, Any], age: float, name: str) -> bool:
    return age <= EVIDENCE_SECONDS and bool(report.get(name))


def _json(content: object, status: int) -> Reply:
    return Reply(status, [(b"content-type", b"application/json")], json.dumps(content).encode())


# ---- HTTP ------------------------------------------------------------------------------------------------


def _headers(scope: Scope) -> list[tuple[bytes, bytes]]:
    """Return the headers for the replica: those of the client, with one request id for both logs."""
    dropped = (b"x-request-id", b"transfer-encoding", b"expect")
    sent = [(bytes(name), bytes(value)) for name, value in scope["headers"]]
    kept = [(name, value) for name, value in sent if name not in dropped]
    return [*kept, (b"x-request-id", context_of(scope).request_id.encode())]


def _elsewhere(reply: Reply) -> bool:
    """Whether another replica may answer what this one has refused."""
    if reply.status != 503:
        return False
    with suppress(ValueError, TypeError, KeyError):
        return json.loads(reply.body)["code"] in ELSEWHERE
    return False


async def _send(reply: Reply, send: Send) -> None:
    headers = [(name, value) for name, value in reply.headers if name.lower() not in _OWN]
    headers.append((b"content-length", str(len(reply.body)).encode()))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body, "more_body": False})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (message := await receive())["type"] != "lifespan.shutdown":
        await send({"type": f"{message['type']}.complete"})
    await send({"type": "lifespan.shutdown.complete"})

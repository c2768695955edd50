"""The HTTP client of the engine's API. Bounded in connections, time and bytes; never follows a redirect.

Proxies and credentials of the environment are not used, so that the key goes to that address only.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import httpx

from service.contract.errors import Unreachable
from service.contract.request import Request
from service.engine_key import EngineKey
from service.http.identity import NAMED_CALLER
from service.remote.answers import Answer
from service.remote.picture import Form

CONNECT_SECONDS: Final = 3.0
MODEL_SECONDS: Final = 5.0  # the whole of GET /v1/model, which computes nothing
MAX_ANSWER: Final = 1 << 18  # bytes; 32 verdicts take 8 KiB
#: An error of TLS after the handshake comes as it is, and so does an address that is none.
NOT_REACHED: Final = (httpx.TransportError, httpx.InvalidURL, OSError, UnicodeError)
log = logging.getLogger(__name__)


class Client:
    """For the event loop that calls ``opened``."""

    def __init__(self, url: str, connections: int, key: EngineKey | None) -> None:
        self._url = url.rstrip("/")
        self._room = asyncio.Semaphore(connections)
        self._key = key
        self._http: httpx.AsyncClient

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Keep connections inside the context."""
        async with httpx.AsyncClient(
            verify=ssl.create_default_context(),  # the system's authorities, or SSL_CERT_FILE
            trust_env=False,
            follow_redirects=False,
            timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=20),  # _room bounds them
        ) as self._http:
            yield

    async def model(self) -> Answer:
        """Return the answer of GET /v1/model. Raises Unreachable."""
        return await self._answered("GET", "/v1/model", httpx.Timeout(MODEL_SECONDS))

    async def judge(self, requests: Sequence[Request]) -> Answer:
        """Return the answer of POST /v1/judge on requests of one group. Raises Unreachable."""
        form, first = Form([one.pair for one in requests]), requests[0]
        headers = {
            "content-type": form.content_type,
            "content-length": str(form.size),
            "x-request-id": first.client_id or first.id,
        }
        if first.trace is not None:
            flag = "01" if first.trace.sampled else "00"
            headers["traceparent"] = f"00-{first.trace.trace_id}-{first.trace.parent_id}-{flag}"
        if first.caller:
            headers[NAMED_CALLER.decode()] = first.caller
        return await self._answered("POST", "/v1/judge", None, headers, form)

    async def _answered(
        self,
        method: str,
        path: str,
        timeout: httpx.Timeout | None,
        headers: Mapping[str, str] | None = None,
        form: Form | None = None,
    ) -> Answer:
        """Return the answer. A connection that breaks before it is followed by one more, since neither call
        changes anything. Raises Unreachable."""
        try:
            return await self._sent(method, path, timeout, headers, form)
        except httpx.TimeoutException as error:
            raise _unreachable(error) from error
        except NOT_REACHED:
            pass
        try:
            return await self._sent(method, path, timeout, headers, form)
        except NOT_REACHED as error:
            raise _unreachable(error) from error

    async def _sent(
        self,
        method: str,
        path: str,
        timeout: httpx.Timeout | None,
        headers: Mapping[str, str] | None,
        form: Form | None,
    ) -> Answer:
        sent = {"accept": "application/json", "accept-encoding": "identity", **(headers or {})}
        if self._key is not None:
            sent["authorization"] = f"Bearer {self._key.current()}"
        async with self._room, _connection_taken() as extensions:
            request = self._http.stream(
                method,
                self._url + path,
                headers=sent,
                content=None if form is None else form.pieces(),
                timeout=httpx.USE_CLIENT_DEFAULT if timeout is None else timeout,
                extensions=extensions,
            )
            async with request as response:
                body = bytearray()
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > MAX_ANSWER:
                        body.clear()  # not the API's
                        break
                return Answer.of(response.status_code, bytes(body), response.headers)


@asynccontextmanager
async def _connection_taken() -> AsyncIterator[dict[str, Any]]:
    """Yield the extensions of a request that cannot be cancelled before it has begun to use a connection:
    httpcore's pool would keep one that it has made for the request for good, unopened."""
    with anyio.CancelScope(shield=True) as taking:

        async def used(event: str, info: object) -> None:
            taking.shield = False

        yield {"trace": used}


def _unreachable(error: Exception) -> Unreachable:
    return Unreachable(f"The engine cannot be reached: {type(error).__name__}.")

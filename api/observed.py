"""ASGI middleware that counts every request of the API by route and status."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from starlette.routing import BaseRoute, Route

from api.problems import STATUS
from service.http.bodies import App, Message, Receive, Scope, Send
from service.http.headers import below_root
from service.telemetry.http_metrics import OTHER, HttpMetrics

#: The statuses whose series begin at zero; a route without a body has FEW.
ALL: Final = tuple(sorted({200, *STATUS.values()}))
FEW: Final = (200, 400, 401, 403, 404, 405, 429, 500, 503)


class Observed:
    """Passes requests on to ``app`` and counts them. ``routes`` are those of the API."""

    def __init__(
        self, app: App, metrics: HttpMetrics, routes: Sequence[BaseRoute], root_path: str = ""
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._routes = [route for route in routes if isinstance(route, Route)]
        self._root_path = root_path
        for route in self._routes:
            metrics.expect(route.path, ALL if "POST" in (route.methods or ()) else FEW)
        metrics.expect(OTHER, FEW)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), None
        route = self._route_of(below_root(scope["path"], self._root_path))

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._metrics.ended(route, status, time.monotonic() - began)

    def _route_of(self, path: str) -> str:
        """Return the route's path with its placeholders, OTHER for an unknown path."""
        return next((one.path for one in self._routes if one.path_regex.match(path)), OTHER)

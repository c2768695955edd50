"""Metrics of the HTTP API: routes are ours, whatever the client asks for, and every end is counted."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest

from api.observed import ALL, FEW, Observed
from api.problems import STATUS
from service.http.bodies import ClientDisconnected, Message, Receive, Scope, Send
from service.telemetry.http_metrics import HttpMetrics
from tests.exposition import Scraped


def routes() -> FastAPI:
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    app.post("/v1/judge")(lambda: None)
    app.get("/v2/models/{model}/ready")(lambda: None)
    return app


class Asked:
    """An API that answers every request with ``status``, or raises it."""

    def __init__(self, root_path: str = "") -> None:
        self.registry = CollectorRegistry()
        self.answer: int | Exception | None = 200
        self.app = Observed(self._serve, HttpMetrics(self.registry), routes().routes, root_path)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        if isinstance(self.answer, Exception):
            raise self.answer
        if self.answer is not None:
            await send({"type": "http.response.start", "status": self.answer, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    def get(self, path: str, answer: int | Exception | None = 200) -> None:
        self.answer = answer

        async def receive() -> Message:
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            pass

        asyncio.run(self.app({"type": "http", "path": path, "method": "GET"}, receive, send))

    @property
    def told(self) -> Scraped:
        return Scraped(generate_latest(self.registry).decode())


def test_a_request_is_counted_by_route_and_status() -> None:
    asked = Asked()
    asked.get("/v1/judge", 503)
    asked.get("/v2/models/one/ready")
    asked.get("/v2/models/another/ready")
    told = asked.told
    assert told("ofa_http_requests_total", route="/v1/judge", status="503") == 1
    assert told("ofa_http_requests_total", route="/v2/models/{model}/ready", status="200") == 2
    assert told("ofa_http_request_duration_seconds_count", route="/v2/models/{model}/ready") == 2


def test_the_prefix_of_a_proxy_is_not_part_of_the_route() -> None:
    asked = Asked(root_path="/vqa")
    asked.get("/vqa/v1/judge")
    asked.get("/v1/judge")
    assert asked.told("ofa_http_requests_total", route="/v1/judge", status="200") == 2


def test_paths_of_clients_never_become_labels() -> None:
    asked = Asked()
    before = asked.told
    for n in range(50):
        asked.get(f"/v1/{n}", 404)
        asked.get(f"/v2/models/{n}/ready", 404)
    told = asked.told
    assert told("ofa_http_requests_total", route="other", status="404") == 50
    assert set(told.samples) == set(before.samples), "every series existed"


@pytest.mark.parametrize("answer", [None, ClientDisconnected()])
def test_a_client_that_leaves_before_an_answer_is_counted_as_aborted(answer: Exception | None) -> None:
    asked = Asked()
    if answer is None:
        asked.get("/v1/judge", answer)
    else:
        with pytest.raises(ClientDisconnected):
            asked.get("/v1/judge", answer)
    assert asked.told("ofa_http_requests_total", route="/v1/judge", status="aborted") == 1


def test_every_status_of_a_call_begins_at_zero() -> None:
    told = Asked().told
    for status in (200, *STATUS.values()):
        assert told("ofa_http_requests_total", route="/v1/judge", status=str(status)) == 0
    assert set(FEW) - {401} <= set(ALL)

"""HAProxy with the shipped configuration between the page and its engines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lab.instances.balancers import Balancer, Place, haproxy
from service.contract.causes import Refusal
from tests.api.serving import PICTURE, ScriptedApplication, serving
from tests.fakes import until
from tests.remote.conftest import Over


@contextmanager
def always_ready() -> Iterator[int]:
    """Serve a health port that answers every check; yield its number."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


Engines = tuple[list[ScriptedApplication], Balancer, list[ExitStack]]


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[Engines]:
    """Two scripted engines, HAProxy before them, and what ends each."""
    scripted, ends = [ScriptedApplication(), ScriptedApplication()], [ExitStack(), ExitStack()]
    with ExitStack() as stack:
        places = []
        for one, end in zip(scripted, ends, strict=True):
            stack.enter_context(end)
            front = end.enter_context(serving(one))
            places.append(Place(front.port, end.enter_context(always_ready())))
        balancer = stack.enter_context(haproxy(tmp_path, places))
        balancer.wait_ready("1", "2")
        yield scripted, balancer, ends


@pytest.mark.long
def test_a_cancelled_request_ends_at_the_engine_behind_haproxy(engines: Engines, over: Over) -> None:
    scripted, balancer, _ = engines
    application = over(balancer.page)
    for one in scripted:
        one.hold = True
    held = application.submit(PICTURE, "held")
    until(lambda: any(one.seen and one.seen[-1]["texts"] == ["held"] for one in scripted))
    (engine,) = [one for one in scripted if one.seen and one.seen[-1]["texts"] == ["held"]]
    assert held.cancel()
    until(lambda: engine.futures[-1].cancelled())


def test_one_engine_may_end_and_only_the_last_is_missed(engines: Engines, over: Over) -> None:
    _, balancer, ends = engines
    application = over(balancer.page)
    ends[0].close()
    verdicts = [application.submit(PICTURE, "a").result(30) for _ in range(20)]
    assert {verdict.reason for verdict in verdicts} == {None}
    ends[1].close()
    until(lambda: application.report().ready.reason == Refusal.NO_INSTANCE)
    assert application.submit(PICTURE, "a").result(30).reason == Refusal.NO_INSTANCE
    assert application.report().live.ok

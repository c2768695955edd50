"""A process that serves the API over the scripted application, as the engine behind a page in front.

``python -m tests.web.engine PORT HEALTH_PORT``. The health port answers every check.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from prometheus_client import CollectorRegistry

from service.contract.causes import Refusal
from service.contract.request import Verdict, VerdictFuture
from service.telemetry.http_metrics import HttpMetrics
from tests.web.application import FakeApplication


class ScriptedEngine(FakeApplication):
    """Each text of a call is a command. ``busy`` is a full queue, as the API has no other word for it."""

    def __init__(self) -> None:
        super().__init__()
        self.http_metrics = HttpMetrics(CollectorRegistry())

    def submit_many(
        self,
        image: Any,
        hypotheses: Sequence[str | None],
        premise: str | None = None,
        *,
        futures: Sequence[VerdictFuture],
        caller: str = "",
        **_: Any,
    ) -> list[VerdictFuture]:
        for text, future in zip(hypotheses, futures, strict=True):
            if text == "reason busy":
                future.set_result(Verdict.none("busy", code=Refusal.QUEUE_FULL, retry_after=3.2))
            else:
                self.submit(image, text, premise, caller=caller, future=future)
        return list(futures)


class _Ready(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


def main(port: int, health_port: int) -> None:
    from api.app import ApiSite
    from service.front import Front
    from service.listening import Connections, listen, page_limits
    from service.settings import Settings

    front = Front(
        {"": ApiSite(ScriptedEngine(), Settings())},
        listen("127.0.0.1", port, "--port"),
        Connections("page", page_limits()),
    )
    front.start()
    threading.Thread(target=HTTPServer(("127.0.0.1", health_port), _Ready).serve_forever, daemon=True).start()
    print("engine serving", flush=True)
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))

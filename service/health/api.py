"""The health API: a Flask application and the thread that serves it.

Answers are derived from kept evidence: no handler computes, samples or waits.
"""

from __future__ import annotations

import socket
from typing import Final, Protocol

from flask import Flask, Response, jsonify
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from service.contract.times import STOP_SIDECAR
from service.health.report import Check, Report
from service.health.wsgi import ServerThread
from service.listening import Connections, health_limits

SERVER_THREADS: Final = 4


class Reporter(Protocol):
    """What the API needs from the application."""

    def report(self) -> Report: ...

    def exposition(self) -> bytes: ...


def create_app(application: Reporter) -> Flask:
    """Create the Flask application; each call gets a report or the metrics from ``application``."""
    app = Flask("health_api", static_folder=None)
    app.json.sort_keys = False  # type: ignore[attr-defined]  # the default provider has it

    @app.get("/health")
    def health() -> tuple[Response, int]:
        report = application.report()
        return jsonify(report.as_dict()), 200 if report.healthy else 503

    @app.get("/health/simple")
    def simple() -> Response:
        return _text("OK", 200) if application.report().healthy else _text("FAIL", 503)

    @app.get("/livez")
    def livez() -> Response:
        return _check(application.report().live)

    @app.get("/readyz")
    def readyz() -> Response:
        return _check(application.report().ready)

    @app.get("/startupz")
    def startupz() -> Response:
        return _check(application.report().startup)

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(application.exposition(), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    @app.get("/")
    def endpoints() -> Response:
        paths = sorted(rule.rule for rule in app.url_map.iter_rules())
        return _text("\n".join(paths) + "\n", 200)

    @app.errorhandler(404)
    def unknown(_: Exception) -> Response:
        return _text("Not found. The endpoints are listed at /.", 404)

    @app.after_request
    def add_headers(response: Response) -> Response:
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return app


def _check(check: Check) -> Response:
    response = _text(check.reason, 200 if check.ok else 503)
    if check.retry_after is not None:
        response.headers["Retry-After"] = str(check.retry_after)
    return response


def _text(body: str, status: int) -> Response:
    return Response(body, status=status, mimetype="text/plain")


class Sidecar:
    """Serves ``create_app`` on ``listener``, which it owns, from a daemon thread."""

    def __init__(
        self, application: Reporter, listener: socket.socket, connections: Connections | None = None
    ) -> None:
        self.port = int(listener.getsockname()[1])
        self._server = ServerThread(
            "health",
            create_app(application),
            listener,
            connections or Connections("health", health_limits()),
            threads=SERVER_THREADS,
        )

    @property
    def alive(self) -> bool:
        """Whether the serving thread is running."""
        return self._server.alive

    def start(self) -> None:
        self._server.start()

    def stop(self, wait: float = STOP_SIDECAR / 2) -> None:
        """Close the port and all connections, and end the threads in at most 2 × ``wait`` seconds."""
        self._server.stop(wait)

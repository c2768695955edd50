"""The health API: what monitors, guardians and load balancers ask. A thread of the same process.

    GET /health          everything, as JSON; 200 when the model is loaded and inference proven, else 503
    GET /health/simple   OK or FAIL
    GET /livez           worth killing?      GET /readyz   send traffic?      GET /startupz   still starting?
    GET /metrics         figures for Prometheus

Every answer is judged from evidence that others keep: nothing here computes, samples or waits. Started as a
program it serves a model with this API alone, without the page:

    python health_api.py --model demo --health-port 8000
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, Final, Protocol

from flask import Flask, Response, jsonify
from waitress.server import create_server

from service.errors import SettingsError
from service.health import Check, Report
from service.metrics import CONTENT_TYPE
from service.settings import Settings

if TYPE_CHECKING:
    from service.app import Application

SERVER_THREADS: Final = 4
LOOK_SECONDS: Final = 0.2
log = logging.getLogger("health_api")


class Reporter(Protocol):
    """What the API needs of the application."""

    def report(self) -> Report: ...

    def exposition(self) -> bytes: ...


def create_app(application: Reporter) -> Flask:
    """The Flask application; it asks ``application`` for a report or the metrics at every call."""
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
        return Response(application.exposition(), content_type=CONTENT_TYPE)

    @app.errorhandler(404)
    def unknown(_: Exception) -> Response:
        return _text("There is no such page here. Try /health.", 404)

    @app.after_request
    def never_kept(response: Response) -> Response:
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
    """Serves ``create_app`` from a daemon thread. ``port`` 0 takes a free one; ``port`` tells which."""

    def __init__(self, application: Reporter, host: str, port: int) -> None:
        self._application = application
        self._host = host
        self.port = port
        self._server: Any = None  # a waitress server; its types leave out what stopping needs
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen, and answer from now on. Raises SettingsError when the port cannot be had."""
        listener = listen(self._host, self.port)
        self.port = listener.getsockname()[1]
        self._server = create_server(
            create_app(self._application),
            sockets=[listener],
            threads=SERVER_THREADS,
            ident=None,
            channel_timeout=30,
            connection_limit=200,
            max_request_body_size=65_536,
        )
        self._thread = threading.Thread(target=self._server.run, name="health", daemon=True)
        self._thread.start()

    def stop(self, wait: float = 5.0) -> None:
        """Close the port and all connections, and end the threads."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        # Sockets may be closed by the thread that polls them alone; with none left its loop ends. That closes
        # the trigger itself as well, perhaps before it was pulled to the end.
        with suppress(OSError):
            server.trigger.pull_trigger(lambda: _close(server))
        self._thread.join(wait)
        server.task_dispatcher.shutdown(timeout=wait)


def _close(server: Any) -> None:
    for channel in list(server.active_channels.values()):
        channel.handle_close()
    server.close()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises SettingsError that names the port and the cause."""
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(128)
        return listener
    except OSError as error:
        if listener is not None:
            listener.close()
        raise SettingsError(
            f"The health API cannot listen on {host} port {port}: {error.strerror or error}.",
            remedy="Stop what uses it, or choose another with --health-port.",
            port=port,
        ) from error


def main(argv: Sequence[str]) -> int:
    """Serve a model with the health API and no page until told to end; the exit code."""
    signals: list[int] = []  # handlers only record: a lock taken in one could be held by whom it interrupts

    def record(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, record)
    try:
        settings = Settings.from_args(
            argv,
            os.environ,
            prog="health_api.py",
            description="Serve a model with the health API and no page. Options of the page are ignored.",
        )
    except SettingsError as error:
        print(f"health_api.py: {error.message} {error.remedy}".rstrip(), file=sys.stderr)
        return error.exit_code
    from service.logs import Logs
    from service.postmortem import StallDump

    logs = Logs(settings.run_dir, max_bytes=settings.log_max_bytes, backups=settings.log_backups)
    logs.open()
    stall_dump = StallDump(settings.run_dir)
    stall_dump.start()
    try:
        code = _serve(settings, signals)
    finally:
        stall_dump.stop()
        logs.close()
    return code


def _serve(settings: Settings, signals: Sequence[int]) -> int:
    """The exit code."""
    from service.app import build
    from service.leaving import leave

    application: Application = build(settings, leave=leave)
    sidecar = Sidecar(application, settings.health_host, settings.health_port)
    code, reason = 0, None
    try:
        sidecar.start()
        application.start(pictures=False)
        log.info("Health: http://%s:%d/health", settings.health_host, sidecar.port)
        while not signals and not application.wait(LOOK_SECONDS):
            pass
        code = application.fatal or 0
    except SettingsError as error:
        log.critical("%s %s", error.message, error.remedy)
        code, reason = error.exit_code, error.message
    application.stop(settings.stop_grace, code=code, reason=reason)
    sidecar.stop()
    log.info("Ended.")
    return code


if __name__ == "__main__":
    from service.leaving import leave

    leave(main(sys.argv[1:]))

"""A stand-in for an instance behind a balancer: it counts what reaches it and answers as ordered."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from lab.instances.balancers import Place
from lab.instances.ports import free_ports

RETRY_AFTER = 7


class Hit(NamedTuple):
    """A request that arrived."""

    method: str
    path: str
    size: int
    forwarded_for: str


class StandIn:
    """Answers on both ports of ``place``.

    ``order`` is ``verdict``, ``dies`` (closes the connection without an answer) or the code of a refusal;
    ``is_ready`` is what /readyz says, ``is_started`` what /startupz does.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.place = Place(*free_ports(2))
        self.order = "verdict"
        self.is_ready = True
        self.is_started = True
        self.hits: list[Hit] = []
        self._servers: list[tuple[ThreadingHTTPServer, threading.Thread]] = []
        self.start()

    def start(self) -> None:
        for port in self.place:
            server = _Server(("127.0.0.1", port), _handler(self))
            thread = threading.Thread(target=server.serve_forever, args=(0.01,))
            thread.start()
            self._servers.append((server, thread))

    def stop(self) -> None:
        """Refuse connections from now on."""
        for server, thread in self._servers:
            server.shutdown()
            thread.join()
            server.server_close()
        self._servers.clear()

    @property
    def health_port(self) -> int:
        return self.place.health_port


class _Server(ThreadingHTTPServer):
    daemon_threads = False
    request_queue_size = 128


def _handler(instance: StandIn) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            if self.server.server_address[1] == instance.health_port:
                good = instance.is_started if self.path == "/startupz" else instance.is_ready
                self._answer(200 if good else 503, {})
                return
            size = int(self.headers.get("Content-Length") or 0)
            received = len(self.rfile.read(size))
            forwarded = ",".join(self.headers.get_all("X-Forwarded-For") or [])
            instance.hits.append(Hit(self.command, self.path, received, forwarded))
            match instance.order:
                case "dies":
                    with suppress(OSError):
                        self.connection.shutdown(socket.SHUT_RDWR)
                case "verdict":
                    self._answer(200, {"instance": instance.number})
                case code:
                    self._answer(429 if code == "caller_limit" else 503, {"code": code})

        do_POST = do_DELETE = do_GET

        def _answer(self, status: int, body: dict[str, object]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            if status in (429, 503):
                self.send_header("Retry-After", str(RETRY_AFTER))
            self.end_headers()
            self.wfile.write(data)

    return Handler

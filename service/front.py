"""The public HTTP server: one listener, one uvicorn thread, and ASGI applications by path prefix.

The socket listens before anything slow happens, so that a port in use is reported at once and an early
client waits instead of being refused.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Final, Protocol

import uvicorn

from service.contract.times import STOP_PAGE_CLOSE, STOP_PAGE_FORCED
from service.http.bodies import App, Receive, Scope, Send
from service.http.errors import redirect_server_log
from service.http.headers import below_root
from service.http.server import Server, protocol_of
from service.listening import Connections

START_SECONDS: Final = 60.0


class Site(Protocol):
    """An ASGI application with its resources."""

    lifespan: bool  # whether the application needs ASGI's lifespan events

    def start(self, port: int) -> App:
        """Make the application, which will be served on ``port``."""

    def drain(self) -> None:
        """Refuse new requests, and wait a bounded time until clients have fetched their answers."""

    def close(self) -> None:
        """Release everything. Called after the server has stopped, also when the start failed."""


class Worker(Protocol):
    """A thread behind the sites."""

    @property
    def name(self) -> str: ...

    @property
    def alive(self) -> bool: ...

    def start(self) -> None: ...

    def stop(self) -> None: ...


class Front:
    """Serves ``sites`` from a thread on ``listener``, which it owns.

    ``sites`` maps path prefixes to sites; the one under "" gets all other paths. ``root_path`` is the path
    prefix that a proxy adds. ``workers`` are started before the sites and stopped before the application.
    """

    def __init__(
        self,
        sites: Mapping[str, Site],
        listener: socket.socket,
        connections: Connections,
        *,
        root_path: str = "",
        workers: Sequence[Worker] = (),
    ) -> None:
        self.workers = workers
        self._sites = list(dict.fromkeys(sites.values()))
        self._site_of = sites
        self._listener = listener
        self._connections = connections
        self._root_path = root_path
        self._thread: threading.Thread | None = None
        self._cleanup = ExitStack()
        self._cleanup.callback(listener.close)
        for site in self._sites:
            self._cleanup.callback(site.close)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def alive(self) -> bool:
        """Whether the server's thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def start(self) -> None:
        """Make the applications and serve them; return once they answer. Raises RuntimeError after
        START_SECONDS."""
        redirect_server_log()
        for worker in self.workers:
            worker.start()
        apps = {site: site.start(self.port) for site in self._sites}
        self._serve(_Router({prefix: apps[site] for prefix, site in self._site_of.items()}, self._root_path))
        for site in self._sites:
            self._cleanup.callback(site.drain)

    def stop_workers(self) -> None:
        """Stop the workers. The sites are served on."""
        for worker in self.workers:
            worker.stop()

    def stop(self) -> None:
        """Deliver finished answers, close the connections, stop the thread. Takes a few seconds at most."""
        self._cleanup.close()

    def _serve(self, app: App) -> None:
        """Start the server's thread and wait until it answers. Raises RuntimeError."""
        config = uvicorn.Config(
            app,
            http=protocol_of(self._connections),
            ws="none",
            lifespan="on" if any(site.lifespan for site in self._sites) else "off",
            proxy_headers=False,  # service.callers reads them, and only from trusted proxies
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_keep_alive=int(self._connections.limits.keep_alive),
            timeout_graceful_shutdown=int(STOP_PAGE_CLOSE),
        )
        server = Server(config, self._connections)
        self._thread = thread = threading.Thread(
            target=server.run, kwargs={"sockets": [self._listener]}, name="front", daemon=True
        )
        thread.start()
        self._cleanup.callback(_stop_thread, server, thread)
        end = time.monotonic() + START_SECONDS
        while not server.started:
            if not thread.is_alive() or time.monotonic() > end:
                raise RuntimeError("The public server did not start.")
            time.sleep(0.01)


class _Router:
    """The ASGI application that passes requests on by path prefix, and lifespan events to the rest."""

    def __init__(self, apps: Mapping[str, App], root_path: str) -> None:
        self._apps = {prefix: app for prefix, app in apps.items() if prefix}
        self._rest = apps[""]
        self._root_path = root_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app_of(scope)(scope, receive, send)

    def _app_of(self, scope: Scope) -> App:
        path = below_root(scope.get("path", ""), self._root_path)
        for prefix, app in self._apps.items():
            if path == prefix or path.startswith(f"{prefix}/"):
                return app
        return self._rest


def _stop_thread(server: uvicorn.Server, thread: threading.Thread) -> None:
    server.should_exit = True
    thread.join(STOP_PAGE_CLOSE)
    if thread.is_alive():
        server.force_exit = True
        thread.join(STOP_PAGE_FORCED)

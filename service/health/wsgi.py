"""Serve a WSGI application on a listening socket with waitress, in a separate thread."""

from __future__ import annotations

import math
import os
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Final

from waitress.adjustments import Adjustments
from waitress.channel import HTTPChannel
from waitress.server import BaseWSGIServer
from waitress.task import ThreadedTaskDispatcher

from service.listening import NO_DESCRIPTOR, Connections, Phase, Watch

_HEADER_BYTES: Final = 16_384
_BODY_BYTES: Final = 65_536


class _Channel(HTTPChannel):
    """A connection governed by its server's ``Connections``."""

    server: _Server

    def __init__(self, server: _Server, sock: socket.socket, addr: Any, adj: Any, map: Any = None) -> None:
        super().__init__(server, sock, addr, adj, map)
        self.watch = Watch(str(addr[0]), time.monotonic())
        if not server.connections.admit(self):
            self.will_close = True

    def refresh(self, now: float) -> None:
        if self.requests or self.total_outbufs_len:
            phase = Phase.BUSY
        elif self.request is None:
            phase = Phase.IDLE
        else:
            phase = Phase.BODY if self.request.headers_finished else Phase.HEAD
        self.watch.update(phase, self.total_outbufs_len, now)

    def received(self, data: bytes) -> bool:
        taken: bool = super().received(data)
        now = time.monotonic()
        self.watch.received(now)
        self.refresh(now)
        return taken

    def drop(self) -> None:
        self.will_close = True

    def handle_close(self) -> None:
        self.server.connections.remove(self)
        super().handle_close()


class _Server(BaseWSGIServer):
    """waitress's server on an already listening socket, TCP or Unix."""

    channel_class = _Channel
    trigger: Any  # missing in waitress's type stubs
    active_channels: Any
    _map: Any

    def __init__(
        self, application: Any, listener: socket.socket, connections: Connections, **adj: Any
    ) -> None:
        self.connections = connections
        self._listener = listener
        self._spare = os.open(os.devnull, os.O_RDONLY)
        adjustments = Adjustments(
            ident=None,
            asyncore_use_poll=True,  # select() is limited to descriptors below 1,024
            connection_limit=1 << 30,  # enforced by ``connections``
            cleanup_interval=1,
            max_request_header_size=_HEADER_BYTES,
            max_request_body_size=_BODY_BYTES,
            **adj,
        )
        dispatcher = ThreadedTaskDispatcher()
        dispatcher.set_thread_count(adjustments.threads)
        super().__init__(
            application,
            _sock=listener,
            dispatcher=dispatcher,
            adj=adjustments,
            sockinfo=(listener.family, listener.type, listener.proto, None),
            bind_socket=False,
        )

    def getsockname(self) -> tuple[str, str]:
        name = self._listener.getsockname()
        return (str(name[0]), str(name[1])) if isinstance(name, tuple) else ("unix", "health.sock")

    def fix_addr(self, addr: Any) -> Any:
        return addr or ("", None)  # Unix socket peers have no address

    def maintenance(self, now: float) -> None:
        self.connections.sweep()

    def handle_accept(self) -> None:
        try:
            accepted = self.accept()
        except OSError as error:
            if error.errno in NO_DESCRIPTOR:
                self._turn_away()
            return
        if accepted is not None:
            conn, addr = accepted
            self.channel_class(self, conn, self.fix_addr(addr), self.adj, map=self._map)

    def _turn_away(self) -> None:
        """Accept with the spare descriptor and close at once: a connection left in the backlog would make
        this thread spin."""
        self.connections.out_of_descriptors()
        os.close(self._spare)
        with suppress(OSError):
            self._listener.accept()[0].close()
        with suppress(OSError):
            self._spare = os.open(os.devnull, os.O_RDONLY)


class ServerThread:
    """Serves ``application`` on ``listener``, which it owns, with ``threads`` worker threads."""

    def __init__(
        self, name: str, application: Any, listener: socket.socket, connections: Connections, *, threads: int
    ) -> None:
        self._server = _Server(application, listener, connections, threads=threads)
        self._thread = threading.Thread(target=self._server.run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the serving thread is running."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait: float) -> None:
        """Close the socket and all connections, and end the threads: at most ``wait`` seconds each."""
        # Only the polling thread may close its sockets; its loop ends when none is left. That also closes the
        # trigger, possibly while it is being pulled.
        with suppress(OSError):
            self._server.trigger.pull_trigger(self._close)
        self._thread.join(wait)
        self._server.task_dispatcher.shutdown(timeout=math.ceil(wait))

    def _close(self) -> None:
        for channel in list(self._server.active_channels.values()):
            channel.handle_close()
        self._server.close()

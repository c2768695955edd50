"""uvicorn on an existing listening socket, with the connection limits of ``service.listening``."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any, Final

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from service.http.errors import on_loop_error
from service.listening import NO_DESCRIPTOR, Connections, Phase, Watch

_SWEEP_TICKS: Final = 10  # of uvicorn's main loop, 0.1 s each


class Server(uvicorn.Server):
    """Serves one ASGI application within the limits of ``connections``."""

    def __init__(self, config: uvicorn.Config, connections: Connections) -> None:
        super().__init__(config)
        self._connections = connections

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        asyncio.get_running_loop().set_exception_handler(self._on_error)

    async def on_tick(self, counter: int) -> bool:
        if counter % _SWEEP_TICKS == 0:
            self._connections.sweep()
        return await super().on_tick(counter)

    def _on_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, OSError) and error.errno in NO_DESCRIPTOR and "socket" in context:
            self._connections.out_of_descriptors()  # asyncio itself pauses accepting for a second
        else:
            on_loop_error(loop, context)


def protocol_of(connections: Connections) -> type[H11Protocol]:
    """Return uvicorn's h11 protocol with every connection registered, for ``uvicorn.Config(http=…)``."""

    class Bounded(H11Protocol):
        watch: Watch

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
            super().connection_made(transport)
            self.watch = Watch(self.client[0] if self.client else "", time.monotonic())
            if not connections.admit(self):
                transport.abort()

        def connection_lost(self, exc: Exception | None) -> None:
            connections.remove(self)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            now = time.monotonic()
            self.watch.received(now)
            self.refresh(now)

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self.refresh(time.monotonic())

        def refresh(self, now: float) -> None:
            answering = self.cycle is not None and not self.cycle.response_complete
            if answering:
                receiving = self.conn.their_state is h11.SEND_BODY
                phase = Phase.BODY if receiving and not self.cycle.response_started else Phase.BUSY
            else:
                phase = Phase.HEAD if self.conn.trailing_data[0] else Phase.IDLE
            self.watch.update(phase, self.transport.get_write_buffer_size(), now)

        def drop(self) -> None:
            self.transport.abort()

    return Bounded

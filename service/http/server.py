"""uvicorn on an existing listening socket, with the connection limits of ``service.listening``.

A short answer is sent in one piece.
"""

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
_JOINED_BYTES: Final = 65_536


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


class JoinedWrites:
    """The transport of a connection; a short answer is written in one piece.

    uvicorn writes head and body separately. A process killed in between leaves a truncated answer,
    after which a load balancer cannot repeat the call on another instance, as it can when there is no answer.
    """

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._held = bytearray()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if len(self._held) + len(data) > _JOINED_BYTES:
            self._flush()
            self._transport.write(data)
            return
        if data and not self._held:
            self._loop.call_soon(self._flush)
        self._held += data

    def close(self) -> None:
        self._flush()
        self._transport.close()

    def get_write_buffer_size(self) -> int:
        return len(self._held) + self._transport.get_write_buffer_size()

    def _flush(self) -> None:
        held, self._held = self._held, bytearray()
        if held:
            self._transport.write(held)


def protocol_of(connections: Connections) -> type[H11Protocol]:
    """Return uvicorn's h11 protocol with every connection registered, for ``uvicorn.Config(http=…)``."""

    class Bounded(H11Protocol):
        watch: Watch

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
            super().connection_made(transport)
            self.transport = JoinedWrites(transport)  # type: ignore[assignment]
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

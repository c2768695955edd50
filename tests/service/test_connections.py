"""Both servers over real sockets: slow connections, connections in use, exhausted descriptors."""

from __future__ import annotations

import asyncio
import http.client
import os
import resource
import socket
import subprocess
import sys
import threading
import time
from asyncio import selector_events
from collections.abc import Callable, Iterator, MutableMapping
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from lab.instances.instance import ROOT
from service.health.wsgi import ServerThread
from service.listening import Connections, Limits, listen
from tests.fakes import PATIENCE, until

QUICK = Limits(connections=40, first_byte=0.5, keep_alive=0.7, head=0.5, body=1.5, stall=0.8)
BODY = 300_000


class Running:
    """A server with its port and its connections."""

    def __init__(self, port: int, connections: Connections) -> None:
        self.port = port
        self.connections = connections

    def connect(self, sent: bytes = b"") -> socket.socket:
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        sock.sendall(sent)
        return sock

    def status(self) -> int:
        asked = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            asked.request("GET", "/")
            return asked.getresponse().status
        finally:
            asked.close()


def wsgi_app(environ: dict[str, Any], start_response: Callable[..., object]) -> list[bytes]:
    environ["wsgi.input"].read()
    if environ["PATH_INFO"] == "/slow":
        time.sleep(1.2)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"x" * (8 << 20)] if environ["PATH_INFO"] == "/large" else [b"ok"]


async def asgi_app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    if scope["path"] == "/slow":
        await asyncio.sleep(1.2)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    body = b"x" * (8 << 20) if scope["path"] == "/large" else b"ok"
    await send({"type": "http.response.body", "body": body})


def serve_wsgi(connections: Connections, held: ExitStack) -> int:
    listener = listen("127.0.0.1", 0, "--health-port")
    server = ServerThread("test-wsgi", wsgi_app, listener, connections, threads=2)
    server.start()
    held.callback(server.stop, PATIENCE)
    return int(listener.getsockname()[1])


def serve_asgi(connections: Connections, held: ExitStack) -> int:
    import uvicorn

    from service.http.server import Server, protocol_of

    listener = held.enter_context(listen("127.0.0.1", 0, "--port"))
    config = uvicorn.Config(asgi_app, http=protocol_of(connections), ws="none", log_config=None)
    server = Server(config, connections)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()

    def stop() -> None:
        server.should_exit = server.force_exit = True
        thread.join(PATIENCE)

    held.callback(stop)
    until(lambda: server.started)
    return int(listener.getsockname()[1])


@pytest.fixture(params=[serve_wsgi, serve_asgi], ids=["wsgi", "asgi"])
def server(request: pytest.FixtureRequest) -> Iterator[Running]:
    connections = Connections("test", QUICK)
    with ExitStack() as held:
        yield Running(request.param(connections, held), connections)


def gone(sock: socket.socket) -> bool:
    """Wait until the peer closes the connection; return whether it did."""
    with sock:
        try:
            while sock.recv(65_536):
                pass
        except ConnectionError:
            pass
    return True


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET / HT",
        b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: ",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf",
    ],
    ids=["nothing", "half a line", "half a head", "half a body"],
)
def test_what_never_completes_is_closed(server: Running, sent: bytes) -> None:
    assert gone(server.connect(sent))
    assert server.connections.dropped["slow"] == 1
    assert server.status() == 200


def test_a_head_that_comes_byte_by_byte_has_its_time_from_its_first_byte(server: Running) -> None:
    sock = server.connect()
    with suppress(OSError):
        for byte in b"GET / HTTP/1.1\r\nHost: x\r\nX-Pad: " + b"x" * 100:
            sock.sendall(bytes([byte]))
            time.sleep(0.05)
    assert gone(sock)
    assert server.connections.dropped["slow"] == 1


def test_an_answer_that_takes_longer_than_any_limit_is_given(server: Running) -> None:
    with server.connect(b"GET /slow HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as sock:
        answer = b""
        while part := sock.recv(65_536):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200")
    assert server.connections.dropped["slow"] == 0


def test_an_answer_that_is_not_read_is_closed(server: Running) -> None:
    sock = server.connect(b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
    with sock:
        until(lambda: server.connections.dropped["slow"] == 1)
    assert server.status() == 200


def test_a_kept_alive_connection_is_used_again_and_closed_when_idle(server: Running) -> None:
    asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    for _ in range(3):
        asked.request("GET", "/")
        assert asked.getresponse().read() == b"ok"
    assert gone(asked.sock)
    assert server.connections.dropped["slow"] == 1


def test_a_crowd_of_one_caller_never_keeps_it_from_being_served(server: Running) -> None:
    crowd = [server.connect() for _ in range(60)]
    assert server.status() == 200
    assert server.connections.count <= QUICK.per_caller
    assert server.connections.dropped["cap"] > 0
    for sock in crowd:
        sock.close()
    until(lambda: server.connections.count == 0)


def served(server: Running) -> bool:
    try:
        return server.status() == 200
    except (OSError, http.client.HTTPException):
        return False


OUT_OF_DESCRIPTORS = """
import resource, socket, sys, time, threading
from contextlib import ExitStack
from service.listening import Connections, Limits
from tests.service.test_connections import Running, serve_asgi, serve_wsgi
connections = Connections("test", Limits(connections=100_000, first_byte=3.0))
with ExitStack() as held:
    port = {"wsgi": serve_wsgi, "asgi": serve_asgi}[sys.argv[1]](connections, held)
    server = Running(port, connections)
    status = server.status()
    used = len(__import__("os").listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + 20, used + 20))
    print(port, status, flush=True)  # only now may the crowd come
    for line in sys.stdin:  # the test's word: how it is
        print(connections.exhausted, connections.count, round(time.process_time(), 1), flush=True)
"""


@pytest.mark.parametrize("kind", ["wsgi", "asgi"])
def test_a_server_without_descriptors_counts_it_and_serves_again(kind: str) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS, kind],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    try:
        port, status = map(int, child.stdout.readline().split())
        assert status == 200
        server = Running(port, Connections("asked", QUICK))

        def exhausted() -> int:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.write("how?\n")
            child.stdin.flush()
            return int(child.stdout.readline().split()[0])

        with ExitStack() as crowd:
            for _ in range(60):
                crowd.enter_context(server.connect())
            until(lambda: exhausted() > 0)
        until(lambda: served(server))  # at once for a crowd that has gone, which it has to notice first
    finally:
        child.stdin.close()
        child.wait(PATIENCE)
        child.stdout.close()


def test_a_descriptor_over_1023_does_not_end_the_thread() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    taken = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        with ExitStack() as held:
            connections = Connections("test", QUICK)
            server = Running(serve_wsgi(connections, held), connections)
            assert server.status() == 200
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_tick_leaves_the_loops_handler_alone_also_when_the_count_begins_again() -> None:
    """uvicorn counts its ticks from 0 again once a day."""
    import uvicorn

    from service.http.server import Server

    async def handler_after_two_first_ticks() -> object:
        config = uvicorn.Config(asgi_app, log_config=None)
        config.load()
        server = Server(config, Connections("test", QUICK))
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(handler)
        for _ in range(2):
            await server.on_tick(0)
        return loop.get_exception_handler()

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        raise AssertionError(context)

    assert asyncio.run(handler_after_two_first_ticks()) is handler


def test_a_short_answer_leaves_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed sends all of an answer or nothing."""
    written: list[bytes] = []
    transport = selector_events._SelectorSocketTransport  # type: ignore[attr-defined]
    write = transport.write

    def recorded(self: asyncio.Transport, data: bytes) -> None:
        written.append(bytes(data))
        write(self, data)

    monkeypatch.setattr(transport, "write", recorded)
    connections = Connections("test", QUICK)
    with ExitStack() as held:
        assert Running(serve_asgi(connections, held), connections).status() == 200
    (answer,) = (data for data in written if data)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"ok" in answer

"""Floods of connections: idle, incomplete headers, slow bodies, keep-alive, forms with many parts.

Each flood runs in its own process with its own client addresses (127.0.0.2 to 127.0.0.9) and reconnects
whenever it is disconnected. The latency of the guardian's channel is measured meanwhile.
"""

from __future__ import annotations

import contextlib
import itertools
import selectors
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from lab import ROOT
from lab.faults.fault import Afterwards
from lab.faults.scenes import Scene
from lab.faults.service import Service
from lab.instances.channel import ask

CHANNEL_SECONDS = 0.05
ADDRESSES = [f"127.0.0.{n}" for n in range(2, 10)]
PARTS = b"".join(
    b'--b\r\nContent-Disposition: form-data; name="files"; filename="%d.png"\r\n\r\nx\r\n' % n
    for n in range(1000)
)
SENT = {
    "idle": b"",
    "heads": b"GET /status HTTP/1.1\r\nHost: x\r\nX-Half: ",
    "bodies": b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n",
    "alive": b"GET /status HTTP/1.1\r\nHost: x\r\n\r\n",
    "parts": b"POST /gradio_api/upload HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n"
    b"Content-Type: multipart/form-data; boundary=b\r\n\r\n%s--b--\r\n" % (len(PARTS) + 7, PARTS),
}
DRIPS = {"heads": b"x", "bodies": b"x", "alive": SENT["alive"], "parts": SENT["parts"]}


def crowd(kind: str, count: int, *ports: str) -> Callable[[Service, Scene], Afterwards]:
    """Hold ``count`` connections of one kind to each of the ports (``page``, ``health``)."""

    def make(service: Service, scene: Scene) -> Afterwards:
        known = {"page": service.port, "health": service.health_port}
        numbers = [str(known[port]) for port in ports]
        flood = subprocess.Popen(
            [sys.executable, "-m", "lab.faults.crowds", kind, str(count), *numbers], cwd=ROOT
        )
        timed = ChannelTimes(service)
        timed.start()

        def over() -> None:
            flood.kill()
            flood.wait()
            timed.stop()
            scene.notes.append(f"channel at most {1000 * max(timed.seconds, default=0.0):.0f} ms")
            if timed.failed:
                scene.notes.append(f"{timed.failed} of {len(timed.seconds)} channel requests failed")

        return over

    return make


class ChannelTimes(threading.Thread):
    """Time a request to the guardian's channel every second."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self._folder = service.run_dir
        self._enough = threading.Event()
        self.seconds: list[float] = []
        self.failed = 0

    def run(self) -> None:
        while not self._enough.wait(1.0):
            began = time.monotonic()
            try:
                ask(self._folder)
            except OSError:
                self.failed += 1
            self.seconds.append(time.monotonic() - began)

    def stop(self) -> None:
        self._enough.set()
        self.join()


def main(kind: str, count: int, ports: list[int]) -> None:
    """Keep ``count`` connections per port open, and reopen closed ones."""
    waiting = selectors.DefaultSelector()
    addresses = itertools.cycle(ADDRESSES)
    open_now: dict[int, int] = dict.fromkeys(ports, 0)
    while True:
        for port in ports:
            for _ in range(min(100, count - open_now[port])):
                with contextlib.suppress(OSError):
                    sock = socket.create_connection(
                        ("127.0.0.1", port), timeout=1, source_address=(next(addresses), 0)
                    )
                    sock.sendall(SENT[kind])
                    sock.setblocking(False)
                    waiting.register(sock, selectors.EVENT_READ, port)
                    open_now[port] += 1
        for key, _ in waiting.select(0.2):
            try:
                gone = not key.fileobj.recv(65_536)  # type: ignore[union-attr]
            except OSError:
                gone = True
            if gone:
                waiting.unregister(key.fileobj)
                key.fileobj.close()  # type: ignore[union-attr]
                open_now[key.data] -= 1
        for key in list(waiting.get_map().values()):
            with contextlib.suppress(OSError):
                key.fileobj.send(DRIPS.get(kind, b""))  # type: ignore[union-attr]
        time.sleep(0.5)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), [int(port) for port in sys.argv[3:]])

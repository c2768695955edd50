"""64 clients that send decompression bombs and other expensive pictures at once.

Samples the PSS of the whole process tree meanwhile.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

import psutil

from lab.faults.fault import Afterwards
from lab.faults.hostile_pictures import SET
from lab.faults.scenes import Scene
from lab.faults.service import Service

CLIENTS = 64
ENOUGH_SECONDS = 240.0
REST_SECONDS = 60.0
BOUNDARY = "a-boundary-of-the-tests"


def bombs(service: Service, scene: Scene) -> Afterwards:
    """Send each hostile picture at its largest, one per client, each client with its own address."""
    waiting: queue.Queue[tuple[int, bytes]] = queue.Queue()
    for number in range(CLIENTS):
        waiting.put((number, SET[number % len(SET)].make(1.0)))
    rest = tree_bytes(service.pid)
    memory = Memory(service.pid)
    memory.start()
    outcomes: Counter[str] = Counter()
    seconds: list[float] = []
    lock = threading.Lock()  # guards the two above

    def client() -> None:
        number, picture = waiting.get()
        began = time.monotonic()
        try:
            word = judge(service.port, f"127.0.1.{number + 2}", picture)
        except (OSError, ValueError, HTTPException) as error:
            word = type(error).__name__
        with lock:
            outcomes[word] += 1
            seconds.append(time.monotonic() - began)

    clients = [threading.Thread(target=client, daemon=True) for _ in range(CLIENTS)]
    for one in clients:
        one.start()

    def over() -> None:
        give_up = time.monotonic() + ENOUGH_SECONDS
        for one in clients:
            one.join(max(0.0, give_up - time.monotonic()))
        time.sleep(REST_SECONDS)
        memory.stop()
        answered = ", ".join(f"{count} {word}" for word, count in sorted(outcomes.items()))
        scene.notes.append(f"senders: {answered}; the longest after {max(seconds, default=0):.1f} s")
        scene.notes.append(
            f"peak PSS of the process tree {(memory.peak - rest) / 1e9:.2f} GB above idle, "
            f"{(tree_bytes(service.pid) - rest) / 1e6:.0f} MB a minute later"
        )

    return over


def judge(port: int, address: str, picture: bytes) -> str:
    """Send one request; return `verdict`, an error code, or the HTTP status of a refusal."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    body = head + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
    status, answer = _ask(
        port, address, "/gradio_api/upload", body, f"multipart/form-data; boundary={BOUNDARY}"
    )
    if status != 200:
        return f"status {status}"
    image = {"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}}
    question = json.dumps({"data": [image, "there is a circle", None]}).encode()
    status, answer = _ask(port, address, "/gradio_api/call/judge", question, "application/json")
    if status != 200:
        return f"status {status}"
    status, stream = _ask(port, address, f"/gradio_api/call/judge/{json.loads(answer)['event_id']}", None, "")
    lines = stream.decode().splitlines()
    data = json.loads(lines[-1 if lines[-1] else -2].removeprefix("data: "))
    if isinstance(data, dict):
        return str(data.get("title", "error"))
    return str(data[0].get("code") or "verdict")


def _ask(port: int, address: str, path: str, body: bytes | None, kind: str) -> tuple[int, bytes]:
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=120, source_address=(address, 0))
    with contextlib.closing(asked):
        headers = {"Content-Type": kind} if kind else {}
        asked.request("POST" if body is not None else "GET", path, body, headers)
        answer = asked.getresponse()
        return answer.status, answer.read()


class Memory(threading.Thread):
    """The peak PSS of the process tree of ``pid``, sampled twice a second."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._enough = threading.Event()
        self.peak = 0

    def run(self) -> None:
        while not self._enough.wait(0.5):
            self.peak = max(self.peak, tree_bytes(self._pid))

    def stop(self) -> None:
        self._enough.set()
        self.join()


def tree_bytes(pid: int) -> int:
    """Return the PSS in bytes of a process and all its descendants."""
    return sum(_pss(one) for one in _tree(pid))


def _tree(pid: int) -> Iterator[int]:
    yield pid
    with contextlib.suppress(psutil.Error):
        yield from (child.pid for child in psutil.Process(pid).children(recursive=True))


def _pss(pid: int) -> int:
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) << 10
    return 0

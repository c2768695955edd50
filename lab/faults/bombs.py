"""Sixty-four strangers who send pictures that cost far more to read than to send, all at once.

The memory of the whole tree of processes is sampled meanwhile, shared pages shared out (PSS).
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

STRANGERS = 64
ENOUGH_SECONDS = 240.0
REST_SECONDS = 60.0
BOUNDARY = "a-boundary-of-the-tests"


def bombs(service: Service, scene: Scene) -> Afterwards:
    """Each picture of the hostile set at its largest, one a stranger, each at an address of his own."""
    waiting: queue.Queue[tuple[int, bytes]] = queue.Queue()
    for number in range(STRANGERS):
        waiting.put((number, SET[number % len(SET)].make(1.0)))
    rest = tree_bytes(service.pid)
    memory = Memory(service.pid)
    memory.start()
    told: Counter[str] = Counter()
    seconds: list[float] = []
    lock = threading.Lock()  # guards the two above

    def stranger() -> None:
        number, picture = waiting.get()
        began = time.monotonic()
        try:
            word = judge(service.port, f"127.0.1.{number + 2}", picture)
        except (OSError, ValueError, HTTPException) as error:
            word = type(error).__name__
        with lock:
            told[word] += 1
            seconds.append(time.monotonic() - began)

    strangers = [threading.Thread(target=stranger, daemon=True) for _ in range(STRANGERS)]
    for one in strangers:
        one.start()

    def over() -> None:
        give_up = time.monotonic() + ENOUGH_SECONDS
        for one in strangers:
            one.join(max(0.0, give_up - time.monotonic()))
        time.sleep(REST_SECONDS)
        memory.stop()
        answered = ", ".join(f"{count} {word}" for word, count in sorted(told.items()))
        scene.notes.append(f"strangers: {answered}; the longest after {max(seconds, default=0):.1f} s")
        scene.notes.append(
            f"memory of the tree {(memory.peak - rest) / 1e9:.2f} GB above rest at most, "
            f"{(tree_bytes(service.pid) - rest) / 1e6:.0f} MB a minute later"
        )

    return over


def judge(port: int, address: str, picture: bytes) -> str:
    """What came of one question: verdict, an error's code, or the status that refused it."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'.encode()
    body = head + picture + f"\r\n--{BOUNDARY}--\r\n".encode()
    status, answer = _ask(
        port, address, "/gradio_api/upload", body, f"multipart/form-data; boundary={BOUNDARY}"
    )
    if status != 200:
        return f"status {status}"
    data = [{"path": json.loads(answer)[0], "meta": {"_type": "gradio.FileData"}}, "there is a circle", None]
    question = json.dumps({"data": data}).encode()
    status, answer = _ask(port, address, "/gradio_api/call/judge", question, "application/json")
    if status != 200:
        return f"status {status}"
    status, stream = _ask(port, address, f"/gradio_api/call/judge/{json.loads(answer)['event_id']}", None, "")
    lines = stream.decode().splitlines()
    told = json.loads(lines[-1 if lines[-1] else -2].removeprefix("data: "))
    if isinstance(told, dict):
        return str(told.get("title", "error"))
    return str(told[0].get("code") or "verdict")


def _ask(port: int, address: str, path: str, body: bytes | None, kind: str) -> tuple[int, bytes]:
    asked = http.client.HTTPConnection("127.0.0.1", port, timeout=120, source_address=(address, 0))
    with contextlib.closing(asked):
        headers = {"Content-Type": kind} if kind else {}
        asked.request("POST" if body is not None else "GET", path, body, headers)
        answer = asked.getresponse()
        return answer.status, answer.read()


class Memory(threading.Thread):
    """The most that the tree of ``pid`` took, looked at twice a second."""

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
    """Bytes of a process and all below it, shared pages shared out."""
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

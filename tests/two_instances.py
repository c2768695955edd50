"""Two guarded instances of the demo model, and clients that count what became of each call."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import NamedTuple, Self

from lab.faults.service import Service
from lab.instances.balancers import Place
from lab.instances.client import judge
from lab.instances.guarded import wait_for

CLIENTS = 4
DRAIN_SECONDS = 5
FLAGS = ("--model", "demo", "--trusted-proxies", "127.0.0.1", "--drain-delay", str(DRAIN_SECONDS))
#: The guardian's default times, but that an instance counts as recovered early: it is then restarted at once.
SETTINGS = {"STABLE_PERIOD": 1}
VERDICT = "200"


@contextmanager
def two_instances(folder: Path) -> Iterator[list[Service]]:
    """Run instances 1 and 2; both are healthy."""
    with ExitStack() as stack:
        services = [
            stack.enter_context(
                Service(folder / f"{n}", *FLAGS, "--instance", f"{n}", plain=True, settings=SETTINGS)
            )
            for n in (1, 2)
        ]
        for service in services:
            service.start()
        for service in services:
            service.wait_until_healthy()
            service.wait_until_watched()
        yield services


def places(services: list[Service]) -> list[Place]:
    return [Place(service.port, service.health_port) for service in services]


class Call(NamedTuple):
    """A call and its outcome: the status or code of its one answer, or the error. Times are monotonic."""

    asked: float
    ended: float
    size: int  # of the picture
    result: str
    label: str


class Load:
    """Clients in a closed loop while the context lasts, and their calls; each has one of ``pictures``."""

    def __init__(self, port: int, *pictures: bytes) -> None:
        self._port = port
        self._pictures = pictures
        self._lock = threading.Lock()  # guards the two below
        self._calls: list[Call] = []
        self._in_flight: dict[int, float] = {}
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(CLIENTS)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        for thread in self._threads:
            thread.join()

    @property
    def calls(self) -> list[Call]:
        with self._lock:
            return list(self._calls)

    @property
    def in_flight(self) -> int:
        with self._lock:
            return len(self._in_flight)

    @property
    def lost(self) -> list[Call]:
        """Return the calls without a verdict."""
        return [call for call in self.calls if call.result != VERDICT]

    def more(self, count: int) -> None:
        """Wait until ``count`` more calls have ended."""
        enough = len(self.calls) + count
        wait_for(f"{count} calls", lambda: len(self.calls) >= enough, lambda: self.lost)

    def _run(self, number: int) -> None:
        picture = self._pictures[number % len(self._pictures)]
        while not self._enough.is_set():
            asked, label = time.monotonic(), ""
            with self._lock:
                self._in_flight[number] = asked
            try:
                answer = judge(self._port, picture, "there is a red circle")
                result = str(answer.body.get("code", answer.status))
                label = answer.body["results"][0]["label"] if result == VERDICT else ""
            except (OSError, HTTPException) as error:
                result = type(error).__name__
            with self._lock:
                del self._in_flight[number]
                self._calls.append(Call(asked, time.monotonic(), len(picture), result, label))

"""Clients in a closed loop over POST /v1/judge, and what became of each call."""

from __future__ import annotations

import io
import random
import threading
import time
from http.client import HTTPException
from typing import NamedTuple, Self

from PIL import Image

from lab.instances.client import judge
from lab.instances.guarded import wait_for

CLIENTS = 4
VERDICT = "200"


class Call(NamedTuple):
    """A call and its outcome: the status or code of its one answer, or the error. Times are monotonic."""

    asked: float
    ended: float
    size: int  # of the picture
    result: str
    label: str
    retry_after: float


class Load:
    """Clients in a closed loop while the context lasts, and their calls; each has one of ``pictures``.

    ``pause`` is the wait after a call without a verdict, in seconds. With ``distinct`` each client names an
    address of its own, which a trusted proxy would.
    """

    def __init__(
        self,
        port: int,
        *pictures: bytes,
        clients: int = CLIENTS,
        pause: float = 0.0,
        distinct: bool = False,
    ) -> None:
        self._port = port
        self._pictures = pictures
        self._pause = pause
        self._distinct = distinct
        self._lock = threading.Lock()  # guards the two below
        self._calls: list[Call] = []
        self._in_flight: dict[int, float] = {}
        self._enough = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(clients)]

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
            asked, label, retry_after = time.monotonic(), "", 0.0
            with self._lock:
                self._in_flight[number] = asked
            try:
                caller = f"192.0.2.{number}" if self._distinct else ""
                answer = judge(self._port, picture, "there is a red circle", caller=caller)
                result, retry_after = str(answer.body.get("code", answer.status)), answer.retry_after
                label = answer.body["results"][0]["label"] if result == VERDICT else ""
            except (OSError, HTTPException, ValueError) as error:  # ValueError: a body that is not JSON
                result = type(error).__name__
            with self._lock:
                del self._in_flight[number]
                self._calls.append(Call(asked, time.monotonic(), len(picture), result, label, retry_after))
            if result != VERDICT:
                self._enough.wait(self._pause)


def large_picture() -> bytes:
    """Return a PNG of 4 MB."""
    side = 1183
    file = io.BytesIO()
    Image.frombytes("RGB", (side, side), random.Random(1).randbytes(3 * side * side)).save(file, "PNG")
    return file.getvalue()

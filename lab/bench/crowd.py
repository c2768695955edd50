"""A client process: `python -m lab.bench.crowd PORT PICTURE LONE GREEDY` measures one caller beside another.

The lone caller sends LONE requests, one after the other, while the greedy one has GREEDY requests in flight,
each of which is sent again after its answer, or after the Retry-After of its refusal. Prints one JSON object.
Runs on one processor, the last, so that it does not take the service's.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from typing import Final

from lab.bench.cases import sentence
from lab.instances.client import judge

LONE: Final = "192.0.2.1"
GREEDY: Final = "192.0.2.2"
NO_ANSWER: Final = 0  # in place of a status


class Greedy:
    """A caller with ``count`` requests in flight, from ``start`` to ``stop``."""

    def __init__(self, port: int, picture: bytes, count: int) -> None:
        self._port = port
        self._picture = picture
        self._stopped = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]
        self.statuses: Counter[int] = Counter()

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stopped.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        while not self._stopped.is_set():
            try:
                answer = judge(self._port, self._picture, sentence(number), caller=GREEDY)
                self.statuses[answer.status] += 1
                self._stopped.wait(answer.retry_after)
            except (OSError, HTTPException):
                self.statuses[NO_ANSWER] += 1


def lone(port: int, picture: bytes, count: int) -> list[float]:
    """Return the seconds of each request. Raises RuntimeError if one is not answered with a verdict."""
    seconds: list[float] = []
    for number in range(count):
        began = time.monotonic()
        answer = judge(port, picture, sentence(number), caller=LONE)
        seconds.append(time.monotonic() - began)
        if answer.status != 200:
            raise RuntimeError(f"the lone caller got {answer.status} {answer.body.get('code')}")
    return seconds


def main() -> None:
    port, count, many = int(sys.argv[1]), int(sys.argv[3]), int(sys.argv[4])
    picture = Path(sys.argv[2]).read_bytes()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    alone = lone(port, picture, count)
    greedy = Greedy(port, picture, many)
    greedy.start()
    try:
        while not greedy.statuses:  # the queue is full
            time.sleep(0.01)
        beside = lone(port, picture, count)
    finally:
        greedy.stop()
    print(json.dumps({"alone": alone, "beside": beside, "greedy": greedy.statuses}))


if __name__ == "__main__":
    main()

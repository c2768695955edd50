"""An application that answers as it is told, and a process that serves the page over it.

``python -m tests.web.application PORT [FLAG…]``. The texts that callers send steer it: ``state X``
(from now on), ``tell`` (what the application was handed), ``together N`` (when N of them have come),
``reason X`` (no verdict), ``wait`` (until it ends), anything else a Yes.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from service.errors import InputError
from service.request import Source, Verdict
from service.status import Phase, Progress, Snapshot

READY: Final = Snapshot(phase=Phase.LOADED, model="demo", device="cpu", dtype="fp32")
STATES: Final = {
    "ready": READY,
    "degraded": replace(READY, degraded="computing on the CPU"),
    "loading": replace(
        READY, phase=Phase.LOADING, progress=Progress("fetching", 500_000_000, 1_900_000_000, 1, 3)
    ),
    "failed": replace(READY, phase=Phase.FAILED, fatal=1),
    "stopping": replace(READY, phase=Phase.STOPPING),
}
SCORES: Final = {"Yes": 0.9, "No": 0.06, "Maybe": 0.04}


class FakeApplication:
    """What the page needs of the service, without a model."""

    def __init__(self, snapshot: Snapshot = READY) -> None:
        self._snapshot = snapshot
        self._lock = threading.Lock()  # guards _together
        self._together: list[Future[Verdict]] = []
        self._held: list[Future[Verdict]] = []

    def submit(
        self, image: Any, text: str | None, premise: str | None = None, *, source: Source = "api"
    ) -> Future[Verdict]:
        if image is None:
            raise InputError("There is no picture.", code="no_image")
        if not text:
            raise InputError("There is no text.", code="no_text")
        future: Future[Verdict] = Future()
        word, _, rest = text.partition(" ")
        if word == "state":
            self._snapshot = STATES[rest]
            future.set_result(Verdict.none("error"))
        elif word == "tell":
            handed = {"sha": _sha(image), "path": str(image), "premise": premise, "source": source}
            future.set_result(Verdict.none(json.dumps(handed)))
        elif word == "together":
            self._wait_for(int(rest), future)
        elif word == "reason":
            future.set_result(Verdict.none(rest, retry_after=3.2 if rest == "busy" else None))
        elif word == "wait":
            self._held.append(future)
            print("waiting", flush=True)
        else:
            future.set_result(Verdict.of(SCORES, duration=0.42, device="cpu"))
        return future

    def _wait_for(self, count: int, future: Future[Verdict]) -> None:
        with self._lock:
            self._together.append(future)
            if len(self._together) < count:
                return
            complete, self._together = self._together, []
        for one in complete:
            if one.set_running_or_notify_cancel():
                one.set_result(Verdict.of(SCORES, duration=0.42, device="cpu"))

    def stop(self) -> None:
        for one in self._held:
            if one.set_running_or_notify_cancel():
                one.set_result(Verdict.none("stopping"))

    def snapshot(self) -> Snapshot:
        return self._snapshot


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(port: int, flags: list[str]) -> None:
    from page.server import PageServer, listen
    from service.settings import Settings

    asked_to_end: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: asked_to_end.append(number))
    application = FakeApplication()
    page = PageServer(application, Settings.from_args(flags, {}), listen("127.0.0.1", port))
    page.start()
    print("serving", flush=True)
    while not asked_to_end:
        time.sleep(0.02)
    application.stop()
    page.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

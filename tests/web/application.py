"""A scripted application, and a process that serves the page over it.

``python -m tests.web.application PORT [FLAG…]``. The text of a request is the command:

    state X     switch to a state of STATES; an unknown one breaks the page
    tell        answer with the arguments of ``submit``
    together N  answer once N of them have arrived
    reason X    answer without a verdict
    hold N S    estimate N ahead and S seconds; answer at ``release`` or at the stop
    release     answer all held requests

Any other text is answered with Yes.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from doctor.findings import Text
from page.words import Language
from service.contract.errors import InputError
from service.contract.request import QueueEstimate, Source, Verdict, VerdictFuture
from service.contract.status import Activity, Evidence, Phase, Progress, Snapshot
from service.health import report as health
from service.health.resources import Resources, Use
from service.operations import View
from service.process.restart_log import Restart
from service.telemetry.history import Change, Ended, Sample, State

READY: Final = Snapshot(
    phase=Phase.LOADED,
    model="demo",
    device="cpu",
    dtype="fp32",
    started_unix=int(time.time()),
    evidence=Evidence(time.monotonic(), "probe", probe_at=time.monotonic(), probe_seconds=0.2, label="No"),
)
STATES: Final = {
    "ready": READY,
    "degraded": replace(READY, degraded="computing on the CPU"),
    "loading": replace(
        READY, phase=Phase.LOADING, progress=Progress("fetching", 500_000_000, 1_900_000_000, 1, 3)
    ),
    "failed": replace(READY, phase=Phase.FAILED, fatal=1),
    "stopping": replace(READY, phase=Phase.STOPPING),
    "cuda": replace(READY, device="cuda:0"),
    "queue": replace(READY, activity=Activity(depth=3, capacity=32, computing=1, expected_seconds=6.2)),
}
VARIABLES: Final = ("OFA_OPS_PASSWORD", "OFA_ROOT_PATH")  # settings that tests pass by variable
SCORES: Final = {"Yes": 0.9, "No": 0.06, "Maybe": 0.04}


@dataclass(frozen=True)
class FakeFinding:
    """A finding of the doctor."""

    severity: str = "warning"
    title: str = "Requests take longer than they did"
    evidence: Sequence[str] = ("a <b>line</b>", f"2026-11-22 20:00:00 | ERROR | {'words ' * 40}{'x' * 200}")
    since: str = "2026-11-22 20:00:00"
    until: str = "2026-11-22 20:30:00"
    resolved: bool = False

    def text(self, language: Language) -> Text:
        if language == "zh":
            return Text("同样的问题比以前慢", "从 3 秒到 21 秒。", "找出还在占用计算资源的进程。")
        return Text(self.title, "From 3 s to 21 s.", "Find the other process that computes.")


class FakeOperationsService:
    """An hour of samples with a gap, with a GPU if the snapshot's device is one."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot
        self.probes = 0

    def view(self) -> View:
        now, unix, snapshot = time.monotonic(), time.time(), self._snapshot()
        gpu = Use(3 << 30, 8 << 30) if snapshot.device.startswith("cuda") else None
        resources = Resources(
            now, Use(3 << 30, 8 << 30), "cgroup", Use(1 << 30, 9 << 30), gpu, process_memory=640_000_000
        )
        report = health.judge(snapshot, resources, now=now, unix=unix, evidence_ttl=90.0)
        state = State("loaded", "success", snapshot.device, False)
        samples = [
            Sample(
                *(now - ago, unix - ago, state, ago % 7, 3, ago % 2, 0.8, 1.9),
                process_memory=600_000_000 + 1000 * ago,
                gpu_memory=gpu and gpu.used,
                evidence_age=4.0,
            )
            for ago in (*range(3595, 1800, -5), *range(900, -1, -5))
        ]
        requests = [
            Ended(unix, "page", "answered", "req_1_ab", "Yes", 0.82, (640, 480), 24, "cpu"),
            Ended(unix - 5, "api", "timeout", "req_1_aa", "", 15.0, (64, 64), 7),
            Ended(unix - 9, "api", "no_image", "req_1_a9", "", 0.01, (0, 0), 9),
        ]
        changes = [Change(unix - 3600, State("loading", "failed: not yet proven", "", False))]
        return View(now, report, snapshot, resources, samples, requests, changes)

    def restarts(self) -> list[Restart]:
        text = "restart 1 of 5: process 7 is hung: /livez failed 3 times in a row; it ran 9 s: <b>answer</b>"
        return [Restart("2026-11-22 20:00:00", "ALERT", "hung", text)]

    def findings(self) -> list[FakeFinding]:
        return [FakeFinding(), FakeFinding(title="The disk was full", resolved=True, since="", until="")]

    def probe(self) -> bool:
        self.probes += 1
        return self._snapshot().phase is Phase.LOADED

    def empty_cache(self) -> int | None:
        return 5_000_000 if self._snapshot().device.startswith("cuda") else None


class FakeApplication:
    """Implements ``page.handlers.Application`` without a model."""

    def __init__(self, snapshot: Snapshot = READY) -> None:
        self._snapshot = snapshot
        self._operations = FakeOperationsService(lambda: self._snapshot)
        self._lock = threading.Lock()  # guards the two below
        self._together: list[VerdictFuture] = []
        self._held: list[VerdictFuture] = []

    def submit(
        self,
        image: Any,
        text: str | None,
        premise: str | None = None,
        *,
        source: Source = "api",
        arrived: float | None = None,
        caller: str = "",
        future: VerdictFuture | None = None,
    ) -> VerdictFuture:
        if image is None:
            raise InputError("There is no picture.", code="no_image")
        if not text:
            raise InputError("There is no text.", code="no_text")
        future = VerdictFuture() if future is None else future
        word, _, rest = text.partition(" ")
        if word == "state":
            self._snapshot = STATES.get(rest)  # type: ignore[assignment]
            future.set_result(Verdict.none("error"))
        elif word == "tell":
            handed = {"sha": _sha(image), "path": str(image), "premise": premise, "source": source}
            handed |= {"caller": caller, "arrived": arrived}
            future.set_result(Verdict.none(json.dumps(handed)))
        elif word == "together":
            self._wait_for(int(rest), future)
        elif word == "reason":
            future.set_result(Verdict.none(rest, retry_after=3.2 if rest == "busy" else None))
        elif word == "hold":
            self._hold(future, *rest.split())
        elif word == "release":
            self._release(Verdict.of(SCORES, duration=0.42, device="cpu"))
            future.set_result(Verdict.none("error"))
        else:
            future.set_result(Verdict.of(SCORES, duration=0.42, device="cpu"))
        return future

    def _hold(self, future: VerdictFuture, ahead: str = "0", seconds: str = "") -> None:
        future.queue_estimate = QueueEstimate(int(ahead), float(seconds) if seconds else None)
        with self._lock:
            self._held.append(future)
        print("waiting", flush=True)

    def _release(self, verdict: Verdict) -> None:
        with self._lock:
            held, self._held = self._held, []
        for one in held:
            if one.set_running_or_notify_cancel():
                one.set_result(verdict)

    def _wait_for(self, count: int, future: VerdictFuture) -> None:
        with self._lock:
            self._together.append(future)
            if len(self._together) < count:
                return
            complete, self._together = self._together, []
        for one in complete:
            if one.set_running_or_notify_cancel():
                one.set_result(Verdict.of(SCORES, duration=0.42, device="cpu"))

    def stop(self) -> None:
        self._release(Verdict.none("stopping"))

    def snapshot(self) -> Snapshot:
        return self._snapshot

    @property
    def operations(self) -> FakeOperationsService:
        return self._operations


def _sha(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(port: int, flags: list[str]) -> None:
    from page.login import page_login
    from page.site import PageSite
    from service.api_keys import ApiKeys
    from service.callers import Callers
    from service.front import Front
    from service.http.identity import Identity
    from service.listening import Connections, listen, page_limits
    from service.settings import Settings

    logging.basicConfig(format="%(levelname)s | %(message)s")
    for name in ("page", "service.api_keys", "service.http"):
        logging.getLogger(name).setLevel(logging.INFO)
    stop_signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: stop_signals.append(number))
    application = FakeApplication()
    settings = Settings.from_args(flags, {name: os.environ[name] for name in VARIABLES if name in os.environ})
    keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file else None
    callers = Callers(settings.trusted_proxies)
    login = page_login(settings, port, callers)
    page = Front(
        {"": PageSite(application, settings, Identity(keys, sessions=login, callers=callers), login)},
        listen("127.0.0.1", port, "--port"),
        Connections("page", page_limits()),
        root_path=settings.root_path,
    )
    page.start()
    print("serving", flush=True)
    while not stop_signals:
        time.sleep(0.02)
    application.stop()
    page.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])

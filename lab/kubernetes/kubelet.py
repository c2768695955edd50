"""What the kubelet does with one pod: probes, restarts and the end, from the manifest's own numbers.

It follows the kubelet's prober and container manager: nothing but the startup probe runs until that has
succeeded; a liveness failure runs the preStop hook, then TERM, then KILL after the grace period, and restarts
the container; readiness moves the endpoint in and out. Every exit restarts the container, with a back-off
from the second on. Simplified: one container, HTTP probes, a preStop hook that sleeps, no jitter.
"""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from lab.faults.watcher import fetch
from lab.kubernetes.container import Container

#: Seconds of the kubelet.
BACKOFF_FIRST: Final = 10.0
BACKOFF_LIMIT: Final = 300.0
LEAST_GRACE: Final = 2.0  # of TERM, however long the hook took

Object = dict[str, Any]


class Event(NamedTuple):
    """``at`` is in monotonic seconds."""

    at: float
    what: str
    detail: str = ""


@dataclass(frozen=True)
class Probe:
    """A probe of the manifest, with the defaults of the API. Times in seconds."""

    kind: str
    path: str
    port: str
    period: float
    timeout: float
    failures: int
    successes: int
    delay: float
    grace: float | None

    @classmethod
    def of(cls, container: Object, kind: str) -> Probe:
        spec = container[f"{kind}Probe"]
        return cls(
            kind,
            spec["httpGet"]["path"],
            spec["httpGet"]["port"],
            spec.get("periodSeconds", 10),
            spec.get("timeoutSeconds", 1),
            spec.get("failureThreshold", 3),
            spec.get("successThreshold", 1),
            spec.get("initialDelaySeconds", 0),
            spec.get("terminationGracePeriodSeconds"),
        )


class _Run:
    """One start of the container."""

    def __init__(self) -> None:
        self.started = threading.Event()  # the startup probe has succeeded
        self.over = threading.Event()  # the container has exited
        self.failed: Probe | None = None  # the probe that asks for a restart


class Kubelet:
    """``addresses`` are the base URLs of the container's ports by name. Use it as a context manager, which
    kills the container at the end."""

    def __init__(self, pod: Object, container: Container, addresses: dict[str, str]) -> None:
        (spec,) = pod["containers"]
        self._container = container
        self._addresses = addresses
        self._probes = [Probe.of(spec, kind) for kind in ("startup", "liveness", "readiness")]
        self._hook = float(spec["lifecycle"]["preStop"]["sleep"]["seconds"])
        self._grace = float(pod["terminationGracePeriodSeconds"])
        self._lock = threading.Lock()  # guards the three below
        self._events: list[Event] = []
        self._ready = False
        self._run: _Run | None = None
        self._deleted = threading.Event()
        self._killed = threading.Event()  # at the end of the context
        self._thread = threading.Thread(target=self._keep_running, name="kubelet")

    def __enter__(self) -> Kubelet:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._killed.set()
        self._thread.join()

    # ---- what is seen ------------------------------------------------------------------------------------

    @property
    def events(self) -> list[Event]:
        with self._lock:
            return list(self._events)

    def words(self) -> list[str]:
        """Return the events without times."""
        return [f"{event.what} {event.detail}".strip() for event in self.events]

    @property
    def ready(self) -> bool:
        """Whether the pod is an endpoint of its Services."""
        with self._lock:
            return self._ready

    @property
    def restarts(self) -> int:
        return max(0, sum(event.what == "started" for event in self.events) - 1)

    def delete(self) -> None:
        """Delete the pod: the endpoint at once, then the container, which ``wait_deleted`` waits for."""
        self._note("deleted")
        self._deleted.set()
        self._set_ready(False)

    def wait_deleted(self) -> None:
        self._thread.join()

    def _note(self, what: str, detail: str = "") -> None:
        with self._lock:
            self._events.append(Event(time.monotonic(), what, detail))

    def _set_ready(self, ready: bool, run: _Run | None = None) -> None:
        """Change the endpoint; of a run, only while it lasts and the pod is not deleted."""
        with self._lock:
            if run is not None and (run is not self._run or self._deleted.is_set()):
                return
            if ready != self._ready:
                self._ready = ready
                self._events.append(Event(time.monotonic(), "ready" if ready else "not ready"))

    # ---- the container's life ----------------------------------------------------------------------------

    def _keep_running(self) -> None:
        pause = 0.0
        while not self._ending():
            code = self._run_once()
            exited = time.monotonic()
            self._note("exited", str(code))
            if pause and not self._ending():
                self._note("back-off", f"{pause:g}")
            while time.monotonic() < exited + pause and not self._ending():
                time.sleep(0.05)
            pause = min(BACKOFF_LIMIT, 2 * pause) if pause else BACKOFF_FIRST

    def _ending(self) -> bool:
        return self._deleted.is_set() or self._killed.is_set()

    def _run_once(self) -> int:
        run = _Run()
        with self._lock:
            self._run = run
        self._container.start()
        self._note("started")
        workers = [threading.Thread(target=self._probe, args=(run, probe)) for probe in self._probes]
        for worker in workers:
            worker.start()
        try:
            while (code := self._container.wait(0.05)) is None:
                if self._killed.is_set():
                    self._container.send(signal.SIGKILL)
                elif run.failed is not None or self._deleted.is_set():
                    code = self._kill(run.failed)
                    break
        finally:
            run.over.set()
            self._set_ready(False)
            for worker in workers:
                worker.join()
        return code

    def _kill(self, probe: Probe | None) -> int:
        """Run the hook, send TERM, then KILL: the grace period contains all three. Returns the exit code."""
        grace = self._grace if probe is None or probe.grace is None else probe.grace
        began = time.monotonic()
        self._note("preStop")
        code = self._container.wait(min(self._hook, grace))
        if code is None:
            self._note("TERM")
            self._container.send(signal.SIGTERM)
            code = self._container.wait(max(LEAST_GRACE, began + grace - time.monotonic()))
        if code is None:
            self._note("KILL")
            self._container.send(signal.SIGKILL)
            code = self._container.wait()
        assert code is not None
        return code

    # ---- probes ------------------------------------------------------------------------------------------

    def _probe(self, run: _Run, probe: Probe) -> None:
        """Probe until the container exits. A failed startup or liveness probe ends it."""
        due = time.monotonic() + probe.delay
        failures = successes = 0
        while not run.over.wait(max(0.0, due - time.monotonic())):
            due = max(due + probe.period, time.monotonic())  # missed ticks are dropped
            if self._deleted.is_set() and probe.kind != "readiness":
                return
            if probe.kind != "startup" and not run.started.is_set():
                continue
            status, _ = fetch(self._addresses[probe.port] + probe.path, probe.timeout)
            success = 200 <= status < 400
            failures, successes = (0, successes + 1) if success else (failures + 1, 0)
            if run.over.is_set():
                return
            if not success:
                self._note(f"{probe.kind} failed", str(status))
            if failures < probe.failures and successes < probe.successes:
                continue
            if probe.kind == "readiness":
                self._set_ready(success, run)
            elif not success:
                run.failed = probe
                return
            elif probe.kind == "startup":
                self._note("startup succeeded")
                run.started.set()
                return

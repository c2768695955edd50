"""Keeps the evidence that the model can answer, and fills the silence with probes.

A user's answer is evidence. When the newest is older than the interval, a probe runs; and every few minutes
one runs even under traffic, because only a probe's label can be compared: the first one on a device and
dtype is kept, and another label later means ``unstable``. One probe at a time, whether or not anyone asks.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace

from service.contract.errors import NotFinite, ServiceError
from service.contract.events import NO_EVENTS, Listener
from service.contract.request import Verdict
from service.contract.status import Evidence, Failure

UNSTABLE_LIMIT = 3  # wrong labels or non-finite scores in a row: then the weights are not believed any more
RETRY = 5.0  # seconds between probes while the model is unproven, so that its recovery is seen soon
SPARE = 5.0  # seconds beyond a probe's limit until its future is given up: the engine's timer answers first
_log = logging.getLogger(__name__)


class Prober:
    """Decides when to probe and what a probe's answer means. ``ask`` starts one and returns its future;
    ``on_probe_failing`` is told, by the prober's thread, when UNSTABLE_LIMIT probes in a row were,
    ``on_probe_passed`` when one was answered as ever."""

    def __init__(
        self,
        ask: Callable[[], Future[Verdict]],
        *,
        interval: float,
        baseline_interval: float,
        timeout: float,
        on_probe_failing: Callable[[], None] = lambda: None,
        on_probe_passed: Callable[[], None] = lambda: None,
        events: Listener = NO_EVENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._on_probe_failing = on_probe_failing
        self._on_probe_passed = on_probe_passed
        self._events = events
        self._interval = interval
        self._baseline_interval = baseline_interval
        self._timeout = timeout
        self._clock = clock
        self._wake = threading.Condition()  # guards everything below
        self._evidence = Evidence()
        self._baseline_labels: dict[tuple[str, str], str] = {}
        self._enabled = False
        self._wanted = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    @property
    def name(self) -> str:
        return self._thread.name

    @property
    def dead(self) -> bool:
        """Whether its thread was started and has ended without being stopped."""
        return self._thread.ident is not None and not self._thread.is_alive() and not self._stopped

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait: float = 2.0) -> None:
        with self._wake:
            self._enabled, self._stopped = False, True
            self._wake.notify_all()
        if self._thread.ident is not None:
            self._thread.join(wait)

    def enable(self, *, new_weights: bool = False) -> None:
        """A model was loaded: nothing is known of it yet, so it is probed at once. With ``new_weights`` its
        labels are not those of the model before: the next ones are kept."""
        with self._wake:
            if new_weights:
                self._baseline_labels.clear()
            self._evidence = Evidence(probes=self._evidence.probes)
            self._enabled = True
            self._wake.notify_all()

    def disable(self) -> None:
        with self._wake:
            self._enabled = False

    def ask_now(self) -> bool:
        """Probe at once, however young the evidence is. False while there is no model to probe."""
        with self._wake:
            self._wanted = self._enabled
            self._wake.notify_all()
            return self._wanted

    def evidence(self) -> Evidence:
        return self._evidence  # one reference, replaced whole

    def inference_succeeded(self, now: float) -> None:
        """A user got a finite answer at ``now``."""
        with self._wake:
            self._evidence = replace(self._evidence, proven_at=now, proven_by="user")

    def due_in(self, now: float) -> float | None:
        """Seconds until the next probe; None while there is nothing to probe."""
        with self._wake:
            known = self._evidence
            if not self._enabled or known.probe_running:
                return None
            if known.probe_at is None or self._wanted:
                return 0.0
            if known.proven_at is None or known.standing_failure or known.unstable:
                return max(0.0, known.probe_at + min(RETRY, self._interval) - now)
            next_at = min(known.proven_at + self._interval, known.probe_at + self._baseline_interval)
            return max(0.0, next_at - now)

    def probe(self) -> None:
        """Run one probe to its end and keep what it showed."""
        started = self._clock()
        with self._wake:
            self._wanted = False
            self._evidence = replace(self._evidence, probe_running=True)
        try:
            future = self._ask()
            try:
                verdict = future.result(self._timeout + SPARE)
            except FutureTimeout:
                future.cancel()
                verdict = Verdict.none("timeout")
        except Exception as error:  # whatever a probe trips over is a failed probe, not the prober's end
            known = (
                error
                if isinstance(error, ServiceError)
                else ServiceError(f"{type(error).__name__} in the probe")
            )
            verdict = Verdict.none("error", error=known)
        self._keep(verdict, started, self._clock())

    def _keep(self, verdict: Verdict, started: float, now: float) -> None:
        with self._wake:
            before = self._evidence
            known = replace(
                before,
                probe_running=False,
                probe_at=now,
                probe_seconds=now - started,
                probes=before.probes + 1,
            )
            if verdict.reason is None:
                golden = self._baseline_labels.setdefault((verdict.device, verdict.dtype), verdict.label)
                known = _compared(known, verdict.label, golden, now)
            elif isinstance(verdict.error, NotFinite):
                known = replace(known, unstable=before.unstable + 1)
            elif verdict.reason == "timeout":
                known = replace(known, failure=Failure("timeout", started))
            elif verdict.reason == "error":
                message = verdict.error.message if verdict.error else "no answer"
                known = replace(known, failure=Failure(f"failed: {message[:50]}", started))
            # busy, stopping, loading: the probe was not run and shows nothing
            self._evidence = known
        wrong = known.unstable > before.unstable
        self._events.probed("unstable" if wrong else verdict.code or "success", now - started)
        _tell(before, known, verdict, now - started)
        if known.unstable == UNSTABLE_LIMIT and before.unstable < UNSTABLE_LIMIT:
            self._on_probe_failing()
        elif verdict.reason is None and not known.unstable:
            self._on_probe_passed()

    def _run(self) -> None:
        while not self._stopped:
            wait = self.due_in(self._clock())
            if wait == 0.0:
                self.probe()
                continue
            with self._wake:
                if not self._stopped:
                    # A user's answer only moves the next probe away, so it wakes nobody. The bound covers
                    # an enable() between due_in and here.
                    self._wake.wait(min(wait, 1.0) if wait is not None else 1.0)


def _compared(known: Evidence, label: str, golden: str, now: float) -> Evidence:
    if label != golden:
        return replace(known, label=label, unstable=known.unstable + 1)
    return replace(known, label=label, unstable=0, failure=None, proven_at=now, proven_by="probe")


def _tell(before: Evidence, after: Evidence, verdict: Verdict, seconds: float) -> None:
    """A line whenever a probe changes what is known; none for one success after another."""
    if after.unstable:
        _log.error("PROBE | OUTCOME=unstable | LABEL=%s | IN_A_ROW=%d", after.label, after.unstable)
    elif verdict.reason is not None:
        _log.warning("PROBE | OUTCOME=%s | DURATION=%.2fs", verdict.reason, seconds)
    elif before.proven_at is None or before.standing_failure or before.unstable:
        _log.info(
            "PROBE | OUTCOME=success | LABEL=%s | DURATION=%.2fs | DEVICE=%s | DTYPE=%s",
            verdict.label,
            seconds,
            verdict.device,
            verdict.dtype,
        )

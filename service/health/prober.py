"""Keep evidence that the model can answer, and run a probe when the evidence is old.

A finite answer to a user is evidence. A probe runs when the latest evidence is older than the interval, and
regularly even under traffic, since only a probe's label can be compared: the first label on each device and
dtype is the baseline, and a different label later means ``unstable``. One probe runs at a time. It is not
guarded: the dtype that it names has decided it, and the weights of a more precise one need not be loaded.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import replace

from service.contract.causes import Refusal
from service.contract.errors import NotFinite, ServiceError
from service.contract.events import NO_EVENTS, Listener
from service.contract.request import Verdict
from service.contract.status import Evidence, Failure

UNSTABLE_LIMIT = 3  # wrong labels or non-finite scores in a row until the weights count as damaged
RETRY = 5.0  # seconds between probes while inference is failing, so that recovery is detected soon
SPARE = 5.0  # seconds to wait beyond the probe's timeout, since the engine's timer should answer first
_log = logging.getLogger(__name__)


class Prober:
    """Schedules probes and interprets their answers. ``ask`` starts a probe and returns its future.

    The prober's thread calls ``on_probe_failing`` when UNSTABLE_LIMIT probes in a row were unstable, and
    ``on_probe_passed`` when a probe returned the baseline label. Without ``one_model`` different models may
    answer the probes, whose labels are not compared. Times are seconds.
    """

    def __init__(
        self,
        ask: Callable[[], Future[Verdict]],
        *,
        interval: float,
        baseline_interval: float,
        timeout: float,
        on_probe_failing: Callable[[], None] = lambda: None,
        on_probe_passed: Callable[[], None] = lambda: None,
        one_model: bool = True,
        events: Listener = NO_EVENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = ask
        self._on_probe_failing = on_probe_failing
        self._on_probe_passed = on_probe_passed
        self._one_model = one_model
        self._events = events
        self._interval = interval
        self._baseline_interval = baseline_interval
        self._timeout = timeout
        self._clock = clock
        self._wake = threading.Condition()  # guards everything below
        self._evidence = Evidence()
        self._baseline_labels: dict[tuple[str, str], str] = {}
        self._enabled = False
        self._requested = False
        self._stopped = False
        self._thread = threading.Thread(target=self._run, name="prober", daemon=True)

    @property
    def name(self) -> str:
        return self._thread.name

    @property
    def dead(self) -> bool:
        """Whether its thread has exited without ``stop``."""
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
        """Discard the evidence after a load and probe at once; with ``new_weights``, discard the baseline
        labels as well."""
        with self._wake:
            if new_weights:
                self._baseline_labels.clear()
            self._evidence = Evidence(probes=self._evidence.probes)
            self._enabled = True
            self._wake.notify_all()

    def disable(self, *, forget: bool = False) -> None:
        """Stop probing. With ``forget`` the evidence is discarded: the weights are being replaced."""
        with self._wake:
            self._enabled = False
            if forget:
                self._evidence = Evidence(probes=self._evidence.probes)

    def ask_now(self) -> bool:
        """Probe at once, regardless of evidence. False if no model is loaded."""
        with self._wake:
            self._requested = self._enabled
            self._wake.notify_all()
            return self._requested

    def evidence(self) -> Evidence:
        return self._evidence  # one reference, replaced whole

    def inference_succeeded(self, now: float) -> None:
        """Record a finite answer to a user at ``now``."""
        with self._wake:
            self._evidence = replace(self._evidence, proven_at=now, proven_by="user")

    def due_in(self, now: float) -> float | None:
        """Seconds until the next probe; None while disabled or probing."""
        with self._wake:
            known = self._evidence
            if not self._enabled or known.probe_running:
                return None
            if known.probe_at is None or self._requested:
                return 0.0
            again_at = known.probe_at + min(RETRY, self._interval)  # also after a probe that was refused
            if known.proven_at is None or known.standing_failure or known.unstable:
                return max(0.0, again_at - now)
            next_at = min(known.proven_at + self._interval, known.probe_at + self._baseline_interval)
            return max(0.0, max(next_at, again_at) - now)

    def probe(self) -> None:
        """Run one probe and record its result."""
        started = self._clock()
        with self._wake:
            self._requested = False
            self._evidence = replace(self._evidence, probe_running=True)
        try:
            future = self._ask()
            try:
                verdict = future.result(self._timeout + SPARE)
            except FutureTimeout:
                future.cancel()
                verdict = Verdict.none("timeout")
        except Exception as error:  # any error is a failed probe; the prober must go on
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
                place = (verdict.device, verdict.dtype)
                baseline = self._baseline_labels.setdefault(place, verdict.label)
                known = _compared(known, verdict.label, baseline if self._one_model else verdict.label, now)
            elif isinstance(verdict.error, NotFinite):
                known = replace(known, unstable=before.unstable + 1)
            elif verdict.reason == "timeout":
                known = replace(known, failure=Failure("timeout", started))
            elif verdict.reason == "error":
                message = verdict.error.message if verdict.error else "no answer"
                known = replace(known, failure=Failure(f"failed: {message[:50]}", started))
            elif verdict.reason == Refusal.NO_INSTANCE:
                known = replace(known, failure=Failure(f"failed: {verdict.reason}", started))
            # busy, stopping, loading: the probe did not run
            self._evidence = known
        wrong = known.unstable > before.unstable
        self._events.probed("unstable" if wrong else verdict.code or "success", now - started)
        _log_change(before, known, verdict, now - started)
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
                    # Bounded, since enable() may have notified between due_in() and here.
                    self._wake.wait(min(wait, 1.0) if wait is not None else 1.0)


def _compared(known: Evidence, label: str, baseline: str, now: float) -> Evidence:
    if label != baseline:
        return replace(known, label=label, unstable=known.unstable + 1)
    return replace(known, label=label, unstable=0, failure=None, proven_at=now, proven_by="probe")


def _log_change(before: Evidence, after: Evidence, verdict: Verdict, seconds: float) -> None:
    """Log failures, and the first success after one; of an engine elsewhere that is not reached, the
    first."""
    words = [one.standing_failure.word if one.standing_failure else "" for one in (before, after)]
    if verdict.reason == Refusal.NO_INSTANCE and words[0] == words[1]:
        return
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

"""The last hour in memory: samples of the state, the last requests without their texts, changes of state.

A thread samples snapshots every few seconds, without asking the model or the driver. Everything is bounded.
Times named ``at`` are monotonic seconds.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from service.contract.errors import ServiceError
from service.contract.events import Listener, Stage
from service.contract.request import Request, RequestTiming, Source, Verdict
from service.contract.status import Snapshot
from service.health import report as health
from service.health.resources import Resources

PERIOD: Final = 5.0
SPAN: Final = 3600.0
REQUESTS: Final = 50
CHANGES: Final = 50
WINDOW: Final = 60.0  # seconds of answers that the latency of a sample covers
ANSWERS: Final = 2000  # the most answers it covers
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """A user's request that ended. ``outcome`` is ``answered``, a reason for no verdict, or an input error's
    code. ``size`` is the picture's as sent, (0, 0) if unknown; ``chars`` counts the texts."""

    unix: float
    source: Source
    outcome: str
    id: str
    label: str = ""
    seconds: float = 0.0
    size: tuple[int, int] = (0, 0)
    chars: int = 0
    device: str = ""


@dataclass(frozen=True, slots=True)
class State:
    """The state whose changes are kept, in the words of ``/health``."""

    phase: str
    inference: str
    device: str
    degraded: bool


@dataclass(frozen=True, slots=True)
class Change:
    """The moment of a change, to the precision of the sampling period."""

    unix: float
    state: State


@dataclass(frozen=True, slots=True)
class Sample:
    """One sample. ``ended`` and ``failed`` count requests since the last one (failed: valid input without a
    verdict); latencies are seconds over the answers of WINDOW, None without answers; sizes are bytes."""

    at: float
    unix: float
    state: State
    depth: int
    ended: int
    failed: int
    p50: float | None
    p95: float | None
    process_memory: int
    gpu_memory: int | None
    evidence_age: float | None


class History(Listener):
    """Keeps the last hour. ``sample`` is the loop body and can be called without the thread."""

    def __init__(
        self,
        snapshot: Callable[[], Snapshot],
        resources: Callable[[], Resources],
        *,
        evidence_ttl: float,
        period: float = PERIOD,
        clock: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._snapshot = snapshot
        self._resources = resources
        self._evidence_ttl = evidence_ttl
        self._period = period
        self._clock = clock
        self._unix = unix
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="history", daemon=True)
        self._lock = threading.Lock()  # guards everything below; held for the time of an append or a copy
        self._samples: deque[Sample] = deque(maxlen=math.ceil(SPAN / period))
        self._requests: deque[Ended] = deque(maxlen=REQUESTS)
        self._changes: deque[Change] = deque(maxlen=CHANGES)
        self._answers: deque[tuple[float, float]] = deque(maxlen=ANSWERS)  # (at, seconds)
        self._ended = 0
        self._failed = 0

    # ---- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait: float = 2.0) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(wait)

    # ---- events ------------------------------------------------------------------------------------------

    def ended(
        self, request: Request, verdict: Verdict, timing: RequestTiming, stage: Stage | None = None
    ) -> None:
        if not request.of_user:
            return
        decided = verdict.reason is None
        self._keep(
            Ended(
                unix=self._unix(),
                id=request.id,
                source=request.source,
                outcome=verdict.reason or "answered",
                label=verdict.label if decided else "",
                seconds=verdict.duration,
                size=request.size,
                chars=request.chars,
                device=verdict.device,
            ),
            failed=not decided and verdict.reason != "abandoned",
        )

    def refused(self, request: Request, error: ServiceError, seconds: float) -> None:
        if not request.of_user:
            return
        failed = error.http_status >= 500  # invalid input is not a failure of the service
        self._keep(
            Ended(
                unix=self._unix(),
                id=request.id,
                source=request.source,
                outcome=error.code,
                seconds=seconds,
                size=request.size,
                chars=request.chars,
            ),
            failed=failed,
        )

    def _keep(self, ended: Ended, *, failed: bool) -> None:
        with self._lock:
            self._requests.append(ended)
            self._ended += 1
            self._failed += failed
            if ended.outcome == "answered":
                self._answers.append((self._clock(), ended.seconds))

    # ---- samples -----------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Take one sample."""
        snapshot, resources, now, unix = self._snapshot(), self._resources(), self._clock(), self._unix()
        state = State(
            str(snapshot.phase),
            health.inference(snapshot, now, self._evidence_ttl),
            snapshot.device,
            snapshot.degraded is not None,
        )
        proven = snapshot.evidence.proven_at
        with self._lock:
            recent = sorted(seconds for at, seconds in self._answers if now - at <= WINDOW)
            self._samples.append(
                Sample(
                    at=now,
                    unix=unix,
                    state=state,
                    depth=snapshot.activity.depth,
                    ended=self._ended,
                    failed=self._failed,
                    p50=quantile(recent, 0.50),
                    p95=quantile(recent, 0.95),
                    process_memory=resources.process_memory,
                    gpu_memory=resources.gpu.used if resources.gpu else None,
                    evidence_age=None if proven is None else max(0.0, now - proven),
                )
            )
            self._ended = self._failed = 0
            if not self._changes or self._changes[-1].state != state:
                self._changes.append(Change(unix, state))

    def samples(self) -> list[Sample]:
        """Return the samples of the last hour, oldest first."""
        oldest = self._clock() - SPAN
        with self._lock:
            return [sample for sample in self._samples if sample.at >= oldest]

    def requests(self) -> list[Ended]:
        """Return the last requests that ended, newest first."""
        with self._lock:
            return list(reversed(self._requests))

    def changes(self) -> list[Change]:
        """Return the last changes of state, newest first."""
        with self._lock:
            return list(reversed(self._changes))

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.sample()
            except Exception as error:  # a gap is better than the end of the history
                _log.error("HISTORY | ERROR=%s", type(error).__name__, exc_info=True)
            self._stop.wait(self._period)


def quantile(ordered: Sequence[float], share: float) -> float | None:
    """Return the smallest of the ``ordered`` values that ``share`` of them do not exceed, None without
    values."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None

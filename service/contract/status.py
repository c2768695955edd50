"""The state of the service: the model's phase, its state machine, and the snapshots that health judges.

Everything is immutable or guarded by a lock held for microseconds, so that a health check never waits for a
computation. Times are ``time.monotonic()`` seconds unless named unix.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Literal

from service.contract.calibration import Calibration
from service.contract.causes import CalibrationCode, Refusal


class Phase(StrEnum):
    """The phase of the model; the first four are the words of ``/health``'s ``model``."""

    UNINITIALIZED = "uninitialized"
    LOADING = "loading"
    LOADED = "loaded"
    FAILED = "failed"
    STOPPING = "stopping"


MOVES: Final[Mapping[Phase, frozenset[Phase]]] = {
    Phase.UNINITIALIZED: frozenset({Phase.LOADING, Phase.FAILED, Phase.STOPPING}),
    Phase.LOADING: frozenset({Phase.LOADED, Phase.FAILED, Phase.STOPPING}),
    Phase.LOADED: frozenset({Phase.LOADING, Phase.FAILED, Phase.STOPPING}),
    Phase.FAILED: frozenset({Phase.LOADING, Phase.STOPPING}),
    Phase.STOPPING: frozenset(),
}


class IllegalMove(RuntimeError):
    """A bug: the state machine has no such move."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The progress of loading. ``total_bytes`` is 0 while unknown, or when nothing is fetched."""

    message: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    attempt: int = 0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Activity:
    """What the engine is doing at one moment.

    Attributes:
        alive: False only after one of its threads has died.
        depth, capacity: waiting requests, and their maximum.
        computing: requests in the running batch.
        progress_age: seconds since the running computation passed a cancel point.
        not_cancelling: a cancelled computation still runs.
        background: background rows that wait.
        counts: totals since the start: accepted, answered, timeout, error, abandoned, stopping, rejected,
            orphaned (computations not cancelling), divided (batches retried in halves), preempted (background
            rows put back).
        service_seconds: seconds per request, a moving average.
        expected_seconds: estimated seconds to the answer of a request that arrives now.
        refusal: what that request would be refused with; kept until half the queue is free.
    """

    alive: bool = True
    depth: int = 0
    capacity: int = 0
    running: bool = False
    computing: int = 0
    running_for: float = 0.0
    progress_age: float | None = None
    not_cancelling: bool = False
    hung: bool = False
    background: int = 0
    counts: Mapping[str, int] = field(default_factory=dict)
    service_seconds: float | None = None
    expected_seconds: float | None = None
    retry_after: float = 1.0
    refusal: Refusal | None = None

    @property
    def full(self) -> bool:
        """Whether the queue has no room, or no time, for another request."""
        return self.refusal in (Refusal.QUEUE_FULL, Refusal.TOO_LATE)


@dataclass(frozen=True, slots=True)
class CalibrationState:
    """What became of the model's calibration file. ``code`` says why it is ignored; ``calibration`` is the
    one in use."""

    state: Literal["used", "ignored", "none"] = "none"
    code: CalibrationCode | None = None
    calibration: Calibration | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a call to the engine behind --engine; ``timeout`` is in seconds."""

    max_texts: int
    max_chars: int
    max_bytes: int
    max_pixels: int
    timeout: float


@dataclass(frozen=True, slots=True)
class Remote:
    """The engine behind --engine as it last described itself.

    Attributes:
        url: its address.
        problem: why it cannot be used, a code; None while it can.
        phase: its model's, UNINITIALIZED while there is a problem.
        ready: whether it would accept a request.
        refusal: what it would refuse one with, if it says so.
    """

    url: str
    problem: str | None = Refusal.NO_INSTANCE
    phase: Phase = Phase.UNINITIALIZED
    ready: bool = False
    refusal: Refusal | None = None
    model: str = ""
    device: str = ""
    dtype: str = ""
    calibration: CalibrationState = CalibrationState()
    limits: Limits | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """The reader processes. ``left`` of them are usable; ``stuck`` ones have survived SIGKILL."""

    left: int = 1
    idle: int = 0
    busy: int = 0
    stuck: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed probe. ``word`` is what ``/health`` shows."""

    word: str
    probe_started: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What shows that the model can answer.

    ``proven_at`` is the time of the last finite answer, to a user or a probe. A later success clears a
    failure only if it came after the failed probe began. ``unstable`` counts probes in a row whose label
    differs from the baseline; only a correct one resets it.
    """

    proven_at: float | None = None
    proven_by: Literal["user", "probe"] | None = None
    failure: Failure | None = None
    unstable: int = 0
    probe_at: float | None = None
    probe_seconds: float | None = None
    probe_running: bool = False
    probes: int = 0
    label: str | None = None

    @property
    def standing_failure(self) -> Failure | None:
        if self.failure is None or self.proven_at is None:
            return self.failure
        return self.failure if self.proven_at < self.failure.probe_started else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state of the service at one moment. While ``draining`` it serves, but is not ready. ``remote`` is
    the engine behind --engine; None where the model is in this process."""

    phase: Phase = Phase.UNINITIALIZED
    progress: Progress = Progress()
    model: str = ""
    device: str = ""
    dtype: str = ""
    degraded: str | None = None
    last_error: str | None = None
    started_unix: int = 0
    ready_seconds: float | None = None
    reloads: int = 0
    fatal: int | None = None
    draining: bool = False
    calibration: CalibrationState = CalibrationState()
    activity: Activity = Activity()
    evidence: Evidence = Evidence()
    reading: Reading = Reading()
    remote: Remote | None = None


@dataclass(frozen=True, slots=True)
class DeviceState:
    """Where the model computes. ``degraded`` says why that is not its primary device, None if it is."""

    device: str = ""
    dtype: str = ""
    degraded: str | None = None


class Status:
    """The current snapshot, and the state machine of its phase.

    The phase and the fields set by ``update`` are kept here. The rest is read from its owners whenever a
    snapshot is taken, so that it cannot be out of date.
    """

    def __init__(self, first: Snapshot) -> None:
        self._lock = threading.Lock()  # guards _snapshot
        self._snapshot = first
        self.attach()

    def attach(
        self,
        *,
        activity: Callable[[], Activity] = Activity,
        evidence: Callable[[], Evidence] = Evidence,
        reading: Callable[[], Reading] = Reading,
        device: Callable[[], DeviceState] = DeviceState,
    ) -> None:
        """Set where each snapshot reads the state of the engine, the prober, the readers and the model."""
        self._activity, self._evidence, self._reading, self._device = activity, evidence, reading, device

    def move(self, phase: Phase, **changes: Any) -> None:
        """Change the phase and other fields in one step. Raises IllegalMove."""
        with self._lock:
            now = self._snapshot.phase
            if phase not in MOVES[now]:
                raise IllegalMove(f"{now} → {phase}")
            self._snapshot = replace(self._snapshot, phase=phase, **changes)

    def update(self, **changes: Any) -> None:
        """Change fields other than the phase."""
        if "phase" in changes:
            raise IllegalMove("a phase is changed by move()")
        with self._lock:
            self._snapshot = replace(self._snapshot, **changes)

    @property
    def phase(self) -> Phase:
        return self._snapshot.phase  # one reference, replaced whole, so read without the lock

    @property
    def fatal(self) -> int | None:
        return self._snapshot.fatal

    @property
    def calibration(self) -> Calibration | None:
        """The calibration in use."""
        return self._snapshot.calibration.calibration

    def snapshot(self) -> Snapshot:
        """Return the state of this moment."""
        place = self._device()
        return replace(
            self._snapshot,
            activity=self._activity(),
            evidence=self._evidence(),
            reading=self._reading(),
            device=place.device,
            dtype=place.dtype,
            degraded=place.degraded,
        )

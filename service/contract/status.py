"""Where the service stands: the model's phase and the moves it may make, and the snapshots health reads.

Everything here is small and immutable or guarded by one lock held for microseconds, so that asking how the
service is never waits for what the service does. Times are ``time.monotonic()`` seconds unless named unix.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final, Literal

from service.contract.causes import Refusal


class Phase(StrEnum):
    """The life of the model; the first four words are those of ``/health``'s ``model``."""

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
    """A mistake of ours, never of the world's: the state machine was asked for a move it does not have."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far loading has come. ``total_bytes`` is 0 while unknown or when nothing is fetched."""

    message: str = ""
    done_bytes: int = 0
    total_bytes: int = 0
    attempt: int = 0
    attempts: int = 0


@dataclass(frozen=True, slots=True)
class Activity:
    """What the engine is doing, at the moment it was asked.

    ``alive`` is False only when one of its threads has died. ``progress_age`` is how long ago the running
    computation passed a cancel point. ``counts`` are totals since the start: accepted, answered, timeout,
    error, abandoned, stopping (the ways to end), rejected, orphaned, and divided: batches that were tried
    again in halves. ``depth`` requests wait, ``computing`` are being computed together. One that came
    now should be answered in ``expected_seconds``, None while nothing was measured. ``refusal`` is what it
    would be refused with; once a request was refused it stands until the queue is half empty.
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
    counts: Mapping[str, int] = field(default_factory=dict)
    service_seconds: float | None = None
    expected_seconds: float | None = None
    retry_after: float = 1.0
    refusal: Refusal | None = None

    @property
    def full(self) -> bool:
        """Whether there is no room, or no time, for another request."""
        return self.refusal in (Refusal.QUEUE_FULL, Refusal.TOO_LATE)


@dataclass(frozen=True, slots=True)
class Reading:
    """The processes that read pictures. ``left`` of them work or can be expected to: not those that survived
    being killed (``stuck``), and none while they cannot be started."""

    left: int = 1
    idle: int = 0
    busy: int = 0
    stuck: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """A probe that did not prove the model. ``word`` is what ``/health`` says of it."""

    word: str
    probe_started: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of the model's ability to answer.

    ``proven_at`` is the last finite answer, to a user or a probe. A failure stands until an answer comes
    that is younger than the probe's start: a probe that waited behind a slow request proves nothing bad
    about a model that answered meanwhile. ``unstable`` counts golden mismatches in a row; only a probe with
    the right label ends it.
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
    """All that is known of the service at one moment."""

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
    activity: Activity = Activity()
    evidence: Evidence = Evidence()
    reading: Reading = Reading()


class Status:
    """The holder of the current snapshot.

    The phase is moved here. The rest is read from its owners whenever a snapshot is taken, so that no report
    of theirs can be overtaken by an older one: ``activity``, ``evidence``, ``reading``, and ``place``, which
    returns values for device, dtype and degraded.
    """

    def __init__(
        self,
        first: Snapshot,
        *,
        activity: Callable[[], Activity] = Activity,
        evidence: Callable[[], Evidence] = Evidence,
        place: Callable[[], Mapping[str, str | None]] = dict,
        reading: Callable[[], Reading] = Reading,
    ) -> None:
        self._lock = threading.Lock()  # guards _snapshot
        self._snapshot = first
        self._activity = activity
        self._evidence = evidence
        self._place = place
        self._reading = reading

    def move(self, phase: Phase, **changes: Any) -> None:
        """Go to ``phase`` and change other fields with it, in one step. Raises IllegalMove."""
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
        return self._snapshot.phase  # one reference, replaced whole: no lock needed to read it

    @property
    def fatal(self) -> int | None:
        return self._snapshot.fatal

    def snapshot(self) -> Snapshot:
        """The present, with the figures of the engine, the prober, the readers and the model."""
        return replace(
            self._snapshot,
            activity=self._activity(),
            evidence=self._evidence(),
            reading=self._reading(),
            **self._place(),  # type: ignore[arg-type]  # device, dtype and degraded
        )

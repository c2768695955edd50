"""What operators see and may do: the present, the last hour, restarts, findings; probe, empty the GPU cache.

Access control is the page's.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from service.contract.protocols import Model, MultiDevice
from service.contract.status import Snapshot, Status
from service.health.report import Report
from service.health.resources import Resources, Sampler
from service.process import restart_log as restarts
from service.process.restart_log import Restart
from service.telemetry.history import Change, Ended, History, Sample
from service.telemetry.reporter import Reporter
from service.texts import Language

FINDINGS_SECONDS: Final = 60.0  # the age at which findings are renewed: they take reading the logs


class FindingText(Protocol):
    """A finding in one language."""

    @property
    def title(self) -> str:
        """The problem in a few words."""

    @property
    def diagnosis(self) -> str:
        """The problem in a sentence or two."""

    @property
    def fix(self) -> str:
        """What to do."""


class Finding(Protocol):
    """A finding of the doctor. Holds no user text."""

    def text(self, language: Language) -> FindingText:
        """What is wrong and how to fix it."""

    @property
    def severity(self) -> str:
        """``critical``, ``warning`` or ``info``."""

    @property
    def evidence(self) -> Sequence[str]:
        """The log lines that show it."""

    @property
    def since(self) -> str:
        """When it began, by the logs; "" if unknown."""

    @property
    def until(self) -> str:
        """When it was last seen."""

    @property
    def resolved(self) -> bool:
        """Whether later lines show its end."""


Examine = Callable[[], Sequence[Finding]]


@dataclass(frozen=True, slots=True)
class View:
    """The state at ``now`` (monotonic seconds), from kept samples."""

    now: float
    report: Report
    snapshot: Snapshot
    resources: Resources
    samples: Sequence[Sample]
    requests: Sequence[Ended]
    changes: Sequence[Change]


class Operations:
    """The operators' side of the application. ``view`` and ``probe`` return at once, the others read files or
    ask the driver. ``probe`` probes the model at once; False while none is loaded."""

    def __init__(
        self,
        *,
        reporter: Reporter,
        status: Status,
        sampler: Sampler,
        history: History,
        model: Model,
        probe_now: Callable[[], bool],
        run_dir: Path,
        examine: Examine,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reporter = reporter
        self._status = status
        self._sampler = sampler
        self._history = history
        self._model = model
        self.probe = probe_now
        self._run_dir = run_dir
        self._examine = examine
        self._clock = clock
        self._examining = threading.Lock()  # held while the logs are read; guards the two below
        self._found: Sequence[Finding] = ()
        self._found_at: float | None = None

    def view(self) -> View:
        """Return the present state and the last hour."""
        return View(
            now=self._clock(),
            report=self._reporter.report(),
            snapshot=self._status.snapshot(),
            resources=self._sampler.latest(),
            samples=self._history.samples(),
            requests=self._history.requests(),
            changes=self._history.changes(),
        )

    def restarts(self) -> Sequence[Restart]:
        """Return the guardian's last restarts, newest first."""
        return restarts.read(self._run_dir)

    def findings(self) -> Sequence[Finding]:
        """Return the doctor's findings, at most FINDINGS_SECONDS old."""
        with self._examining:
            if self._found_at is None or self._clock() - self._found_at > FINDINGS_SECONDS:
                self._found, self._found_at = tuple(self._examine()), self._clock()
            return self._found

    def empty_cache(self) -> int | None:
        """Release unused GPU memory. Returns the bytes released, None without a GPU."""
        if self._sampler.latest().gpu is None or not isinstance(self._model, MultiDevice):
            return None
        before, _ = self._model.reserved()
        self._model.empty_cache()
        after, _ = self._model.reserved()
        return max(0, before - after)

"""What an operator is shown and may do: now, the last hour, restarts, findings; probe, empty the cache.

Knows nothing of a page or a password: who may ask is for the page to decide.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from service.contract.protocols import Model, MultiDevice
from service.contract.status import Snapshot
from service.health.report import Report
from service.health.resources import Resources
from service.process import restart_log as restarts
from service.process.restart_log import Restart
from service.telemetry.history import Change, Ended, History, Sample
from service.texts import Language

EXAMINED: Final = 60.0  # seconds for which findings stand: reading whole logs is no work for every look


class FindingText(Protocol):
    """A finding in one language."""

    @property
    def title(self) -> str:
        """What is wrong, in a few words."""

    @property
    def diagnosis(self) -> str:
        """The same in a sentence or two."""

    @property
    def fix(self) -> str:
        """How to fix it."""


class Finding(Protocol):
    """What the doctor found in the logs. None of it holds user text."""

    def text(self, language: Language) -> FindingText:
        """What is wrong and how to fix it."""

    @property
    def severity(self) -> str:
        """``critical``, ``warning`` or ``info``."""

    @property
    def evidence(self) -> Sequence[str]:
        """The lines that show it."""

    @property
    def since(self) -> str:
        """When it began, by the logs; "" if they do not tell."""

    @property
    def until(self) -> str:
        """When it was last seen."""

    @property
    def resolved(self) -> bool:
        """Whether later lines show its end."""


Examine = Callable[[], Sequence[Finding]]


@dataclass(frozen=True, slots=True)
class View:
    """What there is to see at ``now`` (monotonic seconds), from kept figures alone."""

    now: float
    report: Report
    snapshot: Snapshot
    resources: Resources
    samples: Sequence[Sample]
    requests: Sequence[Ended]
    changes: Sequence[Change]


class Operations:
    """The operator's side of the application. ``view`` and ``probe`` return at once; the others read files or
    ask the driver, and are for a thread that may wait."""

    def __init__(
        self,
        *,
        report: Callable[[], Report],
        snapshot: Callable[[], Snapshot],
        resources: Callable[[], Resources],
        history: History,
        model: Model,
        ask_probe: Callable[[], bool],
        run_dir: Path,
        examine: Examine | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._report = report
        self._snapshot = snapshot
        self._resources = resources
        self._history = history
        self._model = model
        self._ask_probe = ask_probe
        self._run_dir = run_dir
        self._examine = examine
        self._clock = clock
        self._examining = threading.Lock()  # held while the logs are read; guards the two below
        self._found: Sequence[Finding] = ()
        self._found_at: float | None = None

    def start(self) -> None:
        """Begin to keep the last hour."""
        self._history.start()

    def stop(self, wait: float) -> None:
        self._history.stop(wait)

    def view(self) -> View:
        """The present and the last hour."""
        return View(
            now=self._clock(),
            report=self._report(),
            snapshot=self._snapshot(),
            resources=self._resources(),
            samples=self._history.samples(),
            requests=self._history.requests(),
            changes=self._history.changes(),
        )

    def restarts(self) -> Sequence[Restart]:
        """The guardian's last lines, newest first."""
        return restarts.read(self._run_dir)

    def findings(self) -> Sequence[Finding] | None:
        """What is wrong by the logs, at most EXAMINED seconds old; None without a doctor."""
        if self._examine is None:
            return None
        with self._examining:
            if self._found_at is None or self._clock() - self._found_at > EXAMINED:
                self._found, self._found_at = tuple(self._examine()), self._clock()
            return self._found

    def probe(self) -> bool:
        """Have the model probed now. False when there is no model to probe."""
        return self._ask_probe()

    def empty_cache(self) -> int | None:
        """Give unused GPU memory back; the bytes that were, or None without a GPU."""
        if self._resources().gpu is None or not isinstance(self._model, MultiDevice):
            return None
        before, _ = self._model.reserved()
        self._model.empty_cache()
        after, _ = self._model.reserved()
        return max(0, before - after)

"""The application: the facade behind the page, the health API and scripts."""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import Final

from PIL import Image

from service.contract.correlation import Trace
from service.contract.errors import (
    Abandoned,
    InputError,
    NotReady,
    OutOfMemory,
    ServiceError,
    ShuttingDown,
)
from service.contract.events import Listener
from service.contract.request import Request, Source, VerdictFuture, new_id
from service.contract.status import Phase, Snapshot, Status
from service.health.report import Report
from service.inference.engine import Engine
from service.inference.jobs import no_verdict
from service.intake.prepare import Intake, raw_pair, size_in
from service.lifecycle import RESTARTING, Supervisor
from service.operations import Operations
from service.settings import Settings
from service.telemetry.metrics import Metrics
from service.telemetry.reporter import Reporter

PROBE_TEXT: Final = "a photo"
PROBE_PICTURE: Final = Image.new("RGB", (64, 64), (128, 128, 128))


class Application:
    """Submits requests and reports health. ``supervisor`` starts, loads and stops it; ``operations`` serves
    the operators' page. Made by service.build."""

    def __init__(
        self,
        settings: Settings,
        *,
        supervisor: Supervisor,
        operations: Operations,
        status: Status,
        intake: Intake,
        engine: Engine,
        events: Listener,
        reporter: Reporter,
        metrics: Metrics,
    ) -> None:
        self.supervisor = supervisor
        self.operations = operations
        self._settings = settings
        self._status = status
        self._intake = intake
        self._engine = engine
        self._events = events
        self._reporter = reporter
        self._metrics = metrics

    def submit(
        self,
        image: Image.Image | str | Path | bytes | None,
        hypothesis: str | None,
        premise: str | None = None,
        *,
        source: Source = "api",
        arrived: float | None = None,
        caller: str = "",
        client_id: str = "",
        trace: Trace | None = None,
        future: VerdictFuture | None = None,
    ) -> VerdictFuture:
        """Check the input in this thread, queue it, and return a future of the verdict or the reason for
        none.

        Args:
            image: a PIL image, or a picture file as a path or bytes, whose decoding this call waits for.
            arrived: monotonic seconds from which the time limit counts; now by default.
            caller: identifies whose request it is; "" for a script in this process.
            client_id, trace: the client's own identifiers, for the logs; see service.contract.correlation.
            future: the future to use; cancelling it ends the request wherever it is.

        Raises InputError for input that cannot be judged.
        """
        arrived = time.monotonic() if arrived is None else arrived
        future = VerdictFuture() if future is None else future
        deadline = arrived + (self._settings.probe_timeout if source == "probe" else self._settings.timeout)
        make = functools.partial(
            Request,
            new_id(time.time()),
            arrived=arrived,
            deadline=deadline,
            source=source,
            client_id=client_id,
            trace=trace,
        )
        try:
            self._check_phase()
            self._engine.check(source)  # an overloaded service decodes no pictures
            began = time.monotonic()
            prepared = self._intake.prepare(
                image, hypothesis, premise, deadline=deadline, caller=caller, wanted=future
            )
            if future.cancelled():
                raise Abandoned
        except (ServiceError, MemoryError) as failure:
            error = _known(failure)
            refused = make(raw_pair(hypothesis, premise), size=size_in(error))
            self._events.refused(refused, error, time.monotonic() - arrived)
            if isinstance(error, InputError):
                raise
            if future.set_running_or_notify_cancel():
                future.set_result(no_verdict(error, refused, time.monotonic() - arrived))
            return future
        request = make(prepared.pair, size=prepared.size, prepared=time.monotonic() - began)
        self._events.started(request, prepared.removed)
        return self._engine.submit(request, future)

    def probe(self) -> VerdictFuture:
        """Submit the probe, which takes every step of a user's request."""
        premise = PROBE_TEXT if self._intake.takes_premise else None
        return self.submit(PROBE_PICTURE, PROBE_TEXT, premise, source="probe")

    def snapshot(self) -> Snapshot:
        return self._status.snapshot()

    def report(self) -> Report:
        """Return the health report. Runs no inference and waits for nothing."""
        return self._reporter.report()

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return self._metrics.exposition()

    def _check_phase(self) -> None:
        phase = self._status.phase
        if phase is Phase.STOPPING or (phase is Phase.FAILED and self._status.fatal in RESTARTING):
            raise ShuttingDown("The service is stopping.")
        if phase is Phase.FAILED:
            raise NotReady("The model could not be loaded.", remedy="See the log for the reason.")
        if phase is not Phase.LOADED:
            raise NotReady("The model is still loading.")


def _known(failure: ServiceError | MemoryError) -> ServiceError:
    if isinstance(failure, ServiceError):
        return failure
    error = OutOfMemory("The machine's memory is full.")
    error.__cause__ = failure
    return error

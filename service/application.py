"""The application: the facade behind the page, the health API and scripts."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Final, Protocol

from PIL import Image

from service.api_keys import ApiKeys
from service.contract.causes import InputCode
from service.contract.correlation import Trace
from service.contract.errors import (
    Abandoned,
    InferenceError,
    InputError,
    NotReady,
    OutOfMemory,
    ServiceError,
    ShuttingDown,
)
from service.contract.events import Listener
from service.contract.protocols import RequestEngine
from service.contract.request import MAX_TEXTS, Request, Source, Verdict, VerdictFuture, new_id
from service.contract.status import Phase, Snapshot, Status
from service.health.report import Report
from service.inference.jobs import no_verdict, places_per_caller
from service.intake.prepare import Prepared, raw_pair, size_in
from service.lifecycle import RESTARTING, Supervisor
from service.operations import Operations
from service.settings import Settings
from service.telemetry.batch_gauges import Figures
from service.telemetry.http_metrics import HttpMetrics
from service.telemetry.metrics import Metrics
from service.telemetry.reporter import Reporter

PROBE_TEXT: Final = "a photo"
QUOTED_PROBE: Final = f'"{PROBE_TEXT}"'  # a model of any language takes quoted words
PROBE_PICTURE: Final = Image.new("RGB", (64, 64), (128, 128, 128))


class Prepares(Protocol):
    """The part of the intake that the application uses; see service.intake.prepare.Intake."""

    @property
    def takes_premise(self) -> bool | None: ...

    def prepare(
        self,
        image: object,
        hypotheses: Sequence[object],
        premise: object,
        *,
        deadline: float,
        caller: str,
        wanted: VerdictFuture,
        probe: bool = False,
    ) -> Prepared: ...

    def thumbnail(self, image: bytes, most: int, *, deadline: float, caller: str) -> bytes: ...


class Application:
    """Submits requests and reports health. ``supervisor`` starts, loads and stops it; ``operations`` serves
    the operators' page; ``api_keys`` are for the servers. Made by service.build."""

    def __init__(
        self,
        settings: Settings,
        *,
        supervisor: Supervisor,
        operations: Operations,
        status: Status,
        intake: Prepares,
        engine: RequestEngine,
        events: Listener,
        reporter: Reporter,
        metrics: Metrics,
        api_keys: ApiKeys | None = None,
    ) -> None:
        self.supervisor = supervisor
        self.operations = operations
        self.api_keys = api_keys
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
        """As ``submit_many`` with one text, whose verdict ``future`` gets."""
        futures = None if future is None else [future]
        return self.submit_many(
            image,
            [hypothesis],
            premise,
            source=source,
            arrived=arrived,
            caller=caller,
            client_id=client_id,
            trace=trace,
            futures=futures,
        )[0]

    def submit_many(
        self,
        image: Image.Image | str | Path | bytes | None,
        hypotheses: Sequence[str | None],
        premise: str | None = None,
        *,
        source: Source = "api",
        arrived: float | None = None,
        caller: str = "",
        client_id: str = "",
        trace: Trace | None = None,
        futures: Sequence[VerdictFuture] | None = None,
    ) -> list[VerdictFuture]:
        """Check the input in this thread, queue it, and return for each text a future of its verdict or the
        reason for none.

        The picture is decoded once. The texts are accepted or refused together, and computed in one batch.

        Args:
            image: a PIL image, or a picture file as a path or bytes, whose decoding this call waits for.
            hypotheses: 1 to MAX_TEXTS texts.
            source: ``batch`` queues background rows, which are computed while no other request waits and
                have no deadline until then; the time limit applies to the decoding.
            arrived: monotonic seconds from which the time limit counts; now by default.
            caller: identifies whose request it is; "" for a script in this process.
            client_id, trace: the client's own identifiers, for the logs; see service.contract.correlation.
            futures: the futures to use. Cancelling one ends its request wherever it is; cancelling all ends
                the decoding, too.

        Raises InputError for input that cannot be judged, InvalidTexts if the texts are the reason. With
        --engine, the futures may raise them instead.
        """
        arrived = time.monotonic() if arrived is None else arrived
        futures = [VerdictFuture() for _ in hypotheses] if futures is None else list(futures)
        deadline = arrived + (self._settings.probe_timeout if source == "probe" else self._settings.timeout)
        make = functools.partial(
            Request,
            arrived=arrived,
            deadline=math.inf if source == "batch" else deadline,
            source=source,
            caller=caller,
            client_id=client_id,
            trace=trace,
        )
        try:
            self._check_phase()
            self._check_count(hypotheses, source)
            self._engine.check(source, caller, len(hypotheses))  # an overloaded service decodes no pictures
            began = time.monotonic()
            wanted = _whole(futures)
            prepared = self._intake.prepare(
                image,
                hypotheses,
                premise,
                deadline=deadline,
                caller=caller,
                wanted=wanted,
                probe=source == "probe",
            )
            if wanted.cancelled():
                raise Abandoned
        except Exception as failure:
            error = _known(failure)
            for future, hypothesis in zip(futures, hypotheses, strict=True):
                refused = make(new_id(time.time()), raw_pair(hypothesis, premise), size=size_in(error))
                self._events.refused(refused, error, time.monotonic() - arrived)
                if not isinstance(error, InputError) and future.set_running_or_notify_cancel():
                    future.set_result(no_verdict(error, refused, time.monotonic()))
            if isinstance(error, InputError):
                raise
            return futures
        spent = time.monotonic() - began
        requests = [
            make(new_id(time.time()), pair, size=prepared.size, prepared=spent) for pair in prepared.pairs
        ]
        for request, removed in zip(requests, prepared.removed, strict=True):
            self._events.started(request, removed)
        self._engine.submit_group(requests, futures)
        return futures

    def probe(self) -> VerdictFuture:
        """Submit the probe, which takes every step of a user's request but the decoding of a file."""
        premise = PROBE_TEXT if self._intake.takes_premise else None
        text = PROBE_TEXT if self._settings.engine is None else QUOTED_PROBE
        return self.submit(PROBE_PICTURE, text, premise, source="probe")

    def snapshot(self) -> Snapshot:
        return self._status.snapshot()

    def report(self) -> Report:
        """Return the health report. Runs no inference and waits for nothing."""
        return self._reporter.report()

    @property
    def http_metrics(self) -> HttpMetrics:
        """Where the HTTP API counts its requests."""
        return self._metrics.http

    def exposition(self) -> bytes:
        """Return the metrics in Prometheus' text format."""
        return self._metrics.exposition()

    def watch_batches(self, figures: Callable[[], Figures]) -> None:
        """Show ``figures`` of served batches in the metrics."""
        self._metrics.watch_batches(figures)

    def thumbnail(self, image: bytes, most: int, *, deadline: float, caller: str) -> bytes:
        """Return a JPEG of a picture file with ``most`` pixels on its longer side, read by ``deadline``
        (monotonic seconds). Raises InputError and what Readers.read raises."""
        return self._intake.thumbnail(image, most, deadline=deadline, caller=caller)

    def _check_count(self, hypotheses: Sequence[str | None], source: Source) -> None:
        places = MAX_TEXTS if source == "batch" else places_per_caller(self._settings.queue_size)
        most = min(MAX_TEXTS, places)
        if not 1 <= len(hypotheses) <= most:
            raise InputError(
                f"There are {len(hypotheses)} texts; 1 to {most} are allowed.",
                code=InputCode.TOO_MANY_TEXTS if hypotheses else InputCode.NO_TEXT,
                remedy="Send the texts in several calls." if hypotheses else "Add a text.",
                length=len(hypotheses),
                limit=most,
            )

    def _check_phase(self) -> None:
        phase = self._status.phase
        if phase is Phase.STOPPING or (phase is Phase.FAILED and self._status.fatal in RESTARTING):
            raise ShuttingDown("The service is stopping.")
        if phase is Phase.FAILED:
            raise NotReady("The model could not be loaded.", remedy="See the log for the reason.")
        if phase is not Phase.LOADED:
            raise NotReady("The model is still loading.")


def _whole(futures: Sequence[VerdictFuture]) -> VerdictFuture:
    """Return a future that is cancelled when all of ``futures`` are."""
    if len(futures) == 1:
        return futures[0]
    whole = VerdictFuture()

    def cancel(_: Future[Verdict]) -> None:
        if all(one.cancelled() for one in futures):
            whole.cancel()

    for future in futures:
        future.add_done_callback(cancel)
    return whole


def _known(failure: Exception) -> ServiceError:
    """Return ``failure`` as an error of ours; the text of a foreign one may quote input."""
    if isinstance(failure, ServiceError):
        return failure
    error = (
        OutOfMemory("The machine's memory is full.")
        if isinstance(failure, MemoryError)
        else InferenceError(f"Unexpected {type(failure).__name__} while the input was prepared.")
    )
    error.__cause__ = failure
    return error

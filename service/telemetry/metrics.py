"""Prometheus metrics: counts events, and reads everything else at each scrape (gauges.py).

Names and units follow Prometheus' conventions. Label values are ours, never a user's. Each application has
its own registry. Label combinations exist from the start at zero, because a rate needs a value to rise from;
input errors and refused probes appear with their first event.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, Metric, ProcessCollector, Summary
from prometheus_client.exposition import generate_latest

from service.contract.causes import Outcome, Refusal
from service.contract.errors import (
    Busy,
    DeadlineExceeded,
    InputError,
    ModelError,
    PermanentLoadError,
    ServiceError,
    TransientLoadError,
)
from service.contract.events import Listener, Stage
from service.contract.request import Request, RequestTiming, Source, Verdict
from service.telemetry.batch_gauges import BatchGauges, Figures
from service.telemetry.gauges import GaugeInputs, Gauges
from service.telemetry.http_metrics import HttpMetrics

SOURCES: Final = get_args(Source)
#: Seconds. 15 is the default time limit: a timeout falls just above that bucket.
DURATIONS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 7.5, 10, 12.5, 15, 20, 30, 60)
STAGES: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 30, 60)
BATCHES: Final = (1, 2, 4, 8, 16, 32, 64)
RUNGS: Final = ("cache emptied", "smaller batch", "CPU", "none left")


class Metrics(Listener):
    """The metrics of one application."""

    def __init__(self) -> None:
        self._registry = _Registry()
        self._make_request_metrics()
        self._make_model_metrics()
        self.http = HttpMetrics(self._registry)
        self._batch_gauges = BatchGauges()
        self._registry.register(self._batch_gauges)
        self._exposition = Summary(
            "ofa_exposition_duration_seconds",
            "Duration of a scrape; each is counted in the next.",
            registry=self._registry,
        )
        ProcessCollector(registry=self._registry)

    def set_inputs(self, inputs: GaugeInputs) -> None:
        """Set where each scrape reads the gauges. Called once, before the first scrape."""
        self._registry.register(Gauges(inputs))

    def watch_batches(self, figures: Callable[[], Figures]) -> None:
        """Read ``figures`` of served batches at each scrape."""
        self._batch_gauges.read = figures

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        began = time.perf_counter()
        text = generate_latest(self._registry)
        self._exposition.observe(time.perf_counter() - began)
        return text

    # ---- metrics -----------------------------------------------------------------------------------------

    def _make_request_metrics(self) -> None:
        registry = self._registry
        self._requests = Counter(
            "ofa_requests",
            "Ended requests by source and outcome; invalid: the input cannot be judged, rejected: no room "
            "or no model.",
            ["source", "outcome"],
            registry=registry,
        )
        self._durations = Histogram(
            "ofa_request_duration_seconds",
            "Time from the arrival of an accepted request to its end, by source; none of background rows.",
            ["source"],
            buckets=DURATIONS,
            registry=registry,
        )
        self._stages = Histogram(
            "ofa_request_stage_duration_seconds",
            "Time of users' requests by stage: prepare (decoding the picture), queue, compute.",
            ["stage"],
            buckets=STAGES,
            registry=registry,
        )
        self._batches = Histogram(
            "ofa_batch_size_requests",
            "Users' requests per batch.",
            buckets=BATCHES,
            registry=registry,
        )
        self._verdicts = Counter("ofa_verdicts", "Verdicts for users by label.", ["label"], registry=registry)
        self._rejections = Counter(
            "ofa_rejections",
            "Requests of users and probes not accepted, by code: queue_full, caller_limit, too_late, stuck, "
            "loading, stopping, no_instance, or an input error.",
            ["reason"],
            registry=registry,
        )
        self._timeouts = Counter(
            "ofa_timeouts",
            "Requests of users and probes that reached their deadline, by stage: decoding, waiting, "
            "computing.",
            ["stage"],
            registry=registry,
        )
        self._not_cancelling = Counter(
            "ofa_orphanings", "Computations that ignored their cancellation.", registry=registry
        )
        self._preemptions = Counter(
            "ofa_preemptions",
            "Background rows whose computation was stopped for another request; each at most three times.",
            registry=registry,
        )
        for source in SOURCES:
            if source != "batch":
                self._durations.labels(source)
            for outcome in Outcome:
                self._requests.labels(source, outcome)
        _begin(self._stages, "prepare", "queue", "compute")
        _begin(self._verdicts, "Yes", "No", "Maybe")
        _begin(self._rejections, *Refusal)
        _begin(self._timeouts, "decoding", "waiting", "computing")

    def _make_model_metrics(self) -> None:
        registry = self._registry
        self._memory = Counter(
            "ofa_out_of_memory_events",
            "Computations that ran out of memory, by the step tried next.",
            ["next"],
            registry=registry,
        )
        self._moves = Counter(
            "ofa_fallback_transitions",
            "Moves of the model between devices: to cpu when GPU memory is full, and back to gpu.",
            ["to"],
            registry=registry,
        )
        self._loads = Counter(
            "ofa_model_load_attempts",
            "Attempts to load the model by outcome: loaded, or an error code.",
            ["outcome"],
            registry=registry,
        )
        self._probes = Counter(
            "ofa_probes",
            "Probes by outcome: success, unstable, timeout, error, or why the probe was refused.",
            ["outcome"],
            registry=registry,
        )
        self._probe_durations = Histogram(
            "ofa_probe_duration_seconds",
            "Duration of probes. The question never changes, so a drift shows a slower device.",
            buckets=DURATIONS,
            registry=registry,
        )
        _begin(self._memory, *RUNGS)
        _begin(self._moves, "cpu", "gpu")
        _begin(self._loads, "loaded", *sorted(_codes(TransientLoadError) | _codes(PermanentLoadError)))
        _begin(self._probes, "success", "unstable", "timeout", "error")

    # ---- events ------------------------------------------------------------------------------------------

    def refused(self, request: Request, error: ServiceError, seconds: float) -> None:
        outcome = _outcome(error)
        self._requests.labels(request.source, outcome).inc()
        if request.source == "batch":
            return
        if outcome in (Outcome.INVALID, Outcome.REJECTED, Outcome.STOPPING):
            self._rejections.labels(error.code).inc()
        elif outcome is Outcome.TIMEOUT:
            self._timeouts.labels("decoding").inc()

    def ended(
        self, request: Request, verdict: Verdict, timing: RequestTiming, stage: Stage | None = None
    ) -> None:
        """Counts the request last, so that a scrape that has it has its parts as well."""
        if stage is not None and request.source != "batch":
            self._timeouts.labels(stage).inc()
        if request.of_user:
            self._stages.labels("prepare").observe(request.prepared)
            self._stages.labels("queue").observe(timing.waited)
            if timing.computed is not None:
                self._stages.labels("compute").observe(timing.computed)
            if verdict.reason is None:
                self._verdicts.labels(verdict.label).inc()
        if request.source != "batch":
            self._durations.labels(request.source).observe(verdict.duration)
        outcome = Outcome.ANSWERED if verdict.reason is None else _outcome(verdict.error, verdict.reason)
        self._requests.labels(request.source, outcome).inc()

    def batched(self, requests: Sequence[Request]) -> None:
        if requests[0].of_user:
            self._batches.observe(len(requests))

    def preempted(self, requests: Sequence[Request]) -> None:
        self._preemptions.inc(len(requests))

    def not_cancelling(self, requests: Sequence[Request], seconds: float) -> None:
        self._not_cancelling.inc()

    def out_of_memory(self, then: str) -> None:
        self._memory.labels(then).inc()

    def moved(self, here: str, there: str) -> None:
        self._moves.labels("cpu" if there == "cpu" else "gpu").inc()

    def load_attempted(self, outcome: str, seconds: float) -> None:
        self._loads.labels(outcome).inc()

    def probed(self, outcome: str, seconds: float) -> None:
        if outcome in ("success", "unstable", "timeout", "error"):
            self._probe_durations.observe(seconds)
        self._probes.labels(outcome).inc()


class _Registry(CollectorRegistry):
    """Leaves out the ``_created`` series, which double the output."""

    def collect(self) -> Iterable[Metric]:
        for family in super().collect():
            family.samples = [one for one in family.samples if not one.name.endswith("_created")]
            yield family


def _begin(metric: Counter | Histogram, *values: str) -> None:
    for value in values:
        metric.labels(value)


def _outcome(error: ServiceError | None, reason: str = "") -> Outcome:
    """Return the outcome of a request without a verdict."""
    if isinstance(error, InputError):
        return Outcome.INVALID
    if isinstance(error, DeadlineExceeded):
        return Outcome.TIMEOUT
    code = error.code if error is not None else reason
    if code in set(Outcome):
        return Outcome(code)
    return Outcome.REJECTED if isinstance(error, Busy | ModelError) else Outcome.ERROR


def _codes(root: type[ServiceError]) -> set[str]:
    return {root.code}.union(*(_codes(kind) for kind in root.__subclasses__()))

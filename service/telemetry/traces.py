"""OpenTelemetry spans of users' requests, sent to a collector by OTLP over HTTP.

A request's spans are made when it ends, from its timing: ``request`` with the children ``prepare``, ``queue``
and ``compute``. Its parent is the client's span, if the request brought a traceparent. The caller of a hook
only queues a record; a thread makes the spans, and the SDK's thread sends them. Both queues are bounded: when
the collector does not keep up, spans are dropped.

Needs requirements-otel.txt, hence imported only with --otlp-endpoint.
"""

from __future__ import annotations

import queue
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    Tracer,
    set_span_in_context,
)

from service.contract.correlation import Trace
from service.contract.errors import ServiceError
from service.contract.events import Listener, Stage
from service.contract.request import Request, RequestTiming, Verdict

SERVICE_NAME: Final = "visual-entailment"
PATH: Final = "/v1/traces"  # below a collector's address, by the standard
QUEUED: Final = 1024  # ended requests
SPANS: Final = 4096  # spans that wait to be sent
BATCH: Final = 512  # spans per request to the collector
SEND_SECONDS: Final = 1.0  # between two of them
EXPORT_TIMEOUT: Final = 5.0  # seconds, with retries


#: Name, seconds and attributes of each.
Stages = tuple[tuple[str, float, dict[str, int]], ...]


@dataclass(frozen=True, slots=True)
class _Ended:
    """What the spans of a request need; not the request, which holds its picture. ``began`` and ``at`` are
    Unix nanoseconds; the stages are listed from the last to the first."""

    began: int
    at: int
    trace: Trace | None
    code: str | None
    facts: dict[str, str | int]
    stages: Stages = ()


class Traces(Listener):
    """Sends the spans of requests to ``endpoint``, the address of a collector without PATH."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint.rstrip("/") + PATH
        self._queue: queue.Queue[_Ended | None] = queue.Queue(QUEUED)
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._stopped = False

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait: float) -> None:
        """Send the remaining spans, for ``wait`` seconds; those that are left are lost."""
        if not self._stopped:
            with suppress(queue.Full):
                self._queue.put(None, timeout=wait)
                self._stopped = True
        if self._thread.ident is not None:
            self._thread.join(wait)

    def refused(self, request: Request, error: ServiceError, seconds: float) -> None:
        self._put(request, str(error.code))

    def ended(
        self, request: Request, verdict: Verdict, timing: RequestTiming, stage: Stage | None = None
    ) -> None:
        self._put(request, verdict.code, verdict, timing, stage)

    def _put(
        self,
        request: Request,
        code: str | None,
        verdict: Verdict | None = None,
        timing: RequestTiming | None = None,
        stage: Stage | None = None,
    ) -> None:
        """Queue a request that ends now. ``code`` says why it has no verdict."""
        if not request.of_user:
            return
        at, seconds = time.time_ns(), time.monotonic() - request.arrived
        facts: dict[str, str | int | None] = {
            "ofa.request_id": request.id,
            "ofa.client_id": request.client_id or None,
            "ofa.source": request.source,
            "ofa.outcome": code or "answered",
            "ofa.label": verdict.label if verdict is not None and code is None else None,
            "ofa.timeout_stage": stage,
            "ofa.text_chars": request.chars,
        }
        known = {name: value for name, value in facts.items() if value is not None}
        stages = () if timing is None else _stages(request.prepared, timing)
        with suppress(queue.Full):
            self._queue.put_nowait(_Ended(at - _ns(seconds), at, request.trace, code, known, stages))

    def _run(self) -> None:
        # Not the global provider: frameworks would send spans of their own through it.
        provider = TracerProvider(
            resource=Resource.create({"service.name": SERVICE_NAME}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(self._endpoint, timeout=EXPORT_TIMEOUT)
        provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=SPANS,
                max_export_batch_size=BATCH,
                schedule_delay_millis=1000 * SEND_SECONDS,
            )
        )
        tracer = provider.get_tracer(__name__)
        while (ended := self._queue.get()) is not None:
            _make_spans(tracer, ended)
        provider.shutdown()


def _stages(prepared: float, timing: RequestTiming) -> Stages:
    before: Stages = (("queue", timing.waited, {"ofa.queue_ahead": timing.ahead}), ("prepare", prepared, {}))
    if timing.computed is None:
        return before
    return ("compute", timing.computed, {"ofa.batch_size": timing.batch}), *before


def _make_spans(tracer: Tracer, ended: _Ended) -> None:
    root = tracer.start_span(
        "request",
        _context(ended.trace),
        kind=SpanKind.SERVER,
        attributes=ended.facts,
        start_time=ended.began,
    )
    below, at = set_span_in_context(root, Context()), ended.at
    for name, seconds, facts in ended.stages:
        began = at - _ns(seconds)
        tracer.start_span(name, below, attributes=facts, start_time=began).end(at)
        at = began
    if ended.code is not None:
        root.set_status(StatusCode.ERROR, ended.code)
    root.end(ended.at)


def _context(trace: Trace | None) -> Context:
    """Return the context of the client's span; an empty one starts a trace."""
    if trace is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if trace.sampled else TraceFlags.DEFAULT)
    parent = SpanContext(int(trace.trace_id, 16), int(trace.parent_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)

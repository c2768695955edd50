"""OpenTelemetry spans of users' requests, sent to a collector by OTLP over HTTP.

A request's spans are made when it ends, from its timing: ``request`` with the children ``prepare``, ``queue``
and ``compute``. Its parent is the client's span, if the request brought a traceparent. The SDK sends spans
from a bounded queue in a thread of its own; when the collector cannot keep up, the oldest are dropped.

Needs requirements-otel.txt, hence imported only with --otlp-endpoint.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
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
QUEUE: Final = 2048  # spans that wait to be sent
BATCH: Final = 512  # spans per request to the collector
SEND_SECONDS: Final = 1.0  # between two of them
EXPORT_TIMEOUT: Final = 5.0  # seconds, with retries
_log = logging.getLogger(__name__)


class Traces(Listener):
    """Sends the spans of requests to ``endpoint``, the address of a collector without PATH."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint.rstrip("/") + PATH
        self._provider: TracerProvider | None = None
        self._tracer: Tracer | None = None
        self._shutdown: threading.Thread | None = None

    def start(self) -> None:
        # Not the global provider: frameworks would send spans of their own through it.
        self._provider = TracerProvider(
            resource=Resource.create({"service.name": SERVICE_NAME}), shutdown_on_exit=False
        )
        exporter = OTLPSpanExporter(self._endpoint, timeout=EXPORT_TIMEOUT)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                exporter,
                max_queue_size=QUEUE,
                max_export_batch_size=BATCH,
                schedule_delay_millis=1000 * SEND_SECONDS,
            )
        )
        self._tracer = self._provider.get_tracer(__name__)

    def stop(self, wait: float) -> None:
        """Send the remaining spans, for ``wait`` seconds; those that are left are lost."""
        if self._provider is None:
            return
        if self._shutdown is None:
            self._tracer = None
            self._shutdown = threading.Thread(
                target=self._provider.shutdown, name="traces-shutdown", daemon=True
            )
            self._shutdown.start()
        self._shutdown.join(wait)

    def refused(self, request: Request, error: ServiceError, seconds: float) -> None:
        self._record(request, str(error.code))

    def ended(
        self, request: Request, verdict: Verdict, timing: RequestTiming, stage: Stage | None = None
    ) -> None:
        more: dict[str, str] = {"ofa.label": verdict.label} if verdict.reason is None else {}
        if stage is not None:
            more["ofa.timeout_stage"] = stage
        self._record(request, verdict.code, timing, more)

    def _record(
        self,
        request: Request,
        code: str | None,
        timing: RequestTiming | None = None,
        more: Mapping[str, str] | None = None,
    ) -> None:
        if self._tracer is None or request.source == "probe":
            return
        try:
            _make_spans(self._tracer, request, code, timing, more or {})
        except Exception as error:  # foreign code in the engine's thread
            _log.error("BROKEN | MSG=no span | ERROR=%s", type(error).__name__, exc_info=True)


def _make_spans(
    tracer: Tracer,
    request: Request,
    code: str | None,
    timing: RequestTiming | None,
    more: Mapping[str, str],
) -> None:
    """Make the spans of a request that ends now. ``code`` says why it has no verdict."""
    end, seconds = time.time_ns(), time.monotonic() - request.arrived
    attributes: dict[str, str | int] = {
        "ofa.request_id": request.id,
        "ofa.source": request.source,
        "ofa.outcome": code or "answered",
        "ofa.text_chars": request.chars,
        **more,
    }
    if request.client_id:
        attributes["ofa.client_id"] = request.client_id
    root = tracer.start_span(
        "request",
        _context(request.trace),
        kind=SpanKind.SERVER,
        attributes=attributes,
        start_time=end - _ns(seconds),
    )
    if timing is not None:
        stages: list[tuple[str, float, dict[str, int]]] = [
            ("prepare", request.prepared, {}),
            ("queue", timing.waited, {"ofa.queue_ahead": timing.ahead}),
        ]
        if timing.computed is not None:
            stages.append(("compute", timing.computed, {"ofa.batch_size": timing.batch}))
        below, at = set_span_in_context(root, Context()), end
        for name, spent, facts in reversed(stages):
            began = at - _ns(spent)
            tracer.start_span(name, below, attributes=facts, start_time=began).end(at)
            at = began
    if code is not None:
        root.set_status(StatusCode.ERROR, code)
    root.end(end)


def _context(trace: Trace | None) -> Context:
    """Return the context of the client's span; an empty one starts a trace."""
    if trace is None:
        return Context()
    flags = TraceFlags(TraceFlags.SAMPLED if trace.sampled else TraceFlags.DEFAULT)
    parent = SpanContext(int(trace.trace_id, 16), int(trace.parent_id, 16), is_remote=True, trace_flags=flags)
    return set_span_in_context(NonRecordingSpan(parent), Context())


def _ns(seconds: float) -> int:
    return int(seconds * 1e9)

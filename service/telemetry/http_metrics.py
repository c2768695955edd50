"""Metrics of the HTTP API by route and status. Both label values come from its code, never from a client."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

OTHER: Final = "other"  # the route of every path that is none of ours
ABORTED: Final = "aborted"  # the status of a request whose client disconnected before an answer
DURATIONS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 15, 20, 30, 60)


class HttpMetrics:
    """Counts the requests of the HTTP API."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "ofa_http_requests",
            "Requests to the HTTP API by route and HTTP status; aborted: the client disconnected before an "
            "answer.",
            ["route", "status"],
            registry=registry,
        )
        self._durations = Histogram(
            "ofa_http_request_duration_seconds",
            "Time from the head of a request to the HTTP API to the end of its answer, by route.",
            ["route"],
            buckets=DURATIONS,
            registry=registry,
        )

    def expect(self, route: str, statuses: Iterable[int]) -> None:
        """Begin the series of a route at zero."""
        self._durations.labels(route)
        for status in (*map(str, statuses), ABORTED):
            self._requests.labels(route, status)

    def ended(self, route: str, status: int | None, seconds: float) -> None:
        """Count a request; ``status`` is None without an answer."""
        self._durations.labels(route).observe(seconds)
        self._requests.labels(route, ABORTED if status is None else str(status)).inc()

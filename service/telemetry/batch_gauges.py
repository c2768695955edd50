"""Metrics of served batches, read at each scrape from the figures of the last step of their runner."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

STATES: Final = ("queued", "running", "done", "cancelled", "failed", "expired")


class Figures(NamedTuple):
    """The number of batches by state, and of the rows that wait in them."""

    batches: Mapping[str, int]
    waiting: int


class BatchGauges(Collector):
    """A collector for prometheus_client. ``read`` returns the figures; zeros where no batches are served."""

    def __init__(self) -> None:
        self.read: Callable[[], Figures] = lambda: Figures({}, 0)

    def collect(self) -> Iterator[Metric]:
        figures = self.read()
        batches = GaugeMetricFamily(
            "ofa_batches", "Served batches that are kept, by state.", labels=["state"]
        )
        for state in STATES:
            batches.add_metric([state], figures.batches.get(state, 0))
        yield batches
        yield GaugeMetricFamily(
            "ofa_batch_rows_waiting", "Rows of served batches that wait for a verdict.", value=figures.waiting
        )

"""The health report of this process: the judgement of service.health over what is known, with no waiting."""

from __future__ import annotations

import time

from service.contract.status import Status
from service.health import report
from service.health.report import Report
from service.health.resources import Sampler
from service.telemetry import logs
from service.telemetry.versions import versions


class Reporter:
    """Thread-safe. Evidence older than ``evidence_ttl`` seconds is stale."""

    def __init__(self, status: Status, sampler: Sampler, evidence_ttl: float) -> None:
        self._status = status
        self._sampler = sampler
        self._evidence_ttl = evidence_ttl

    def report(self) -> Report:
        """Judge the current snapshot. Runs no inference and asks no driver."""
        return report.judge(
            self._status.snapshot(),
            self._sampler.latest(),
            now=time.monotonic(),
            unix=time.time(),
            evidence_ttl=self._evidence_ttl,
            versions=versions(),
            log_lines_lost=logs.lost_lines(),
            log_failing=logs.failing(),
        )

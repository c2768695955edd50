"""The log doctor: finds problems in the logs and the live endpoints, and says why and how to fix them.

    python -m doctor [RUN_DIR]

Imports only codes and texts of the service and no third-party package: it works where the service cannot
start.
"""

from __future__ import annotations

from pathlib import Path

from doctor import patterns, trends
from doctor.findings import Finding, in_order
from doctor.reading import MOST_BYTES, Records, read

__all__ = ["Finding", "Records", "diagnose", "examine", "read"]


def examine(run_dir: Path, most_bytes: int = MOST_BYTES) -> list[Finding]:
    """Return the findings in the logs in ``run_dir``, worst first. Reads the newest ``most_bytes`` of each
    log; a megabyte takes about 0.1 s. Never raises for missing or damaged files."""
    return diagnose(read(run_dir, most_bytes))


def diagnose(records: Records) -> list[Finding]:
    """Return the findings in the logs, worst first."""
    findings = list(patterns.check(records))
    for check in trends.CHECKS:
        findings += check(records)
    return in_order(findings)

"""The log doctor: what went wrong, since when, why and what to do, from the logs and the live endpoints.

    python -m doctor [RUN_DIR]

``examine`` reads a run folder and returns findings, the worst first. Nothing of the service is imported, so a
service that does not start is no hindrance.
"""

from __future__ import annotations

from pathlib import Path

from doctor import courses, lines
from doctor.findings import Finding, in_order
from doctor.reading import MOST_BYTES, Records, read

__all__ = ["Finding", "Records", "diagnose", "examine", "read"]


def examine(run_dir: Path, most_bytes: int = MOST_BYTES) -> list[Finding]:
    """What the logs in ``run_dir`` show, of each the newest ``most_bytes``: a megabyte takes a tenth of a
    second. Never raises for what is missing or damaged there."""
    return diagnose(read(run_dir, most_bytes))


def diagnose(records: Records) -> list[Finding]:
    found = list(lines.look(records))
    for look in courses.COURSES:
        found += look(records)
    return in_order(found)

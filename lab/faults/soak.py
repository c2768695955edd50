"""A long overload of a guarded instance: outcome of every request, health and memory.

    python -m lab.faults.report --soak 30 [--keep FOLDER]

Measures the capacity, offers a multiple of it for the given minutes, and counts restarts (none is allowed),
accepted requests without an answer, verdicts that differ from the first one for the same request, answers of
the health endpoints, and growth of the RSS. All logs stay in FOLDER.
"""

from __future__ import annotations

import json
import re
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

from lab.faults.service import Service
from lab.faults.users import Outcome, Users
from lab.faults.watcher import ENDPOINTS, Watcher, fetch

SATURATING = 8  # users without pauses: keep the engine busy without filling its queue of 32
MEASURED_SECONDS = 20.0
MOST_USERS = 96
WARM_SECONDS = 120.0  # until one-time allocations are done
DRAIN_SECONDS = 60.0
ENDS = ("answered", "timeout", "error", "abandoned", "stopping")


def soak(service: Service, minutes: float, times: float) -> dict[str, Any]:
    """Return the figures of one soak. Raises AssertionError if the service does not get healthy."""
    service.start()
    service.wait_until_healthy()
    pid = service.pid
    capacity = _capacity(service)
    with (
        Watcher(service.health, service.run_dir / "health.tsv") as watcher,
        Users(service.page, MOST_USERS, rate=times * capacity) as users,
    ):
        began = time.monotonic()
        outcomes = _record(users, service.run_dir / "outcomes.tsv", began + 60 * minutes)
        asked_for = time.monotonic() - began
    outcomes += [(outcome.word, outcome.ended - outcome.asked) for outcome in users.take()]
    totals = _drained(service)
    return {
        "minutes": round(asked_for / 60, 1),
        "times": times,
        "capacity": round(capacity, 2),
        "offered": round(len(outcomes) / asked_for, 1),
        "answered": round(sum(word == "verdict" for word, _ in outcomes) / asked_for, 1),
        "outcomes": dict(Counter(word for word, _ in outcomes).most_common()),
        "longest_wait": round(max(seconds for word, seconds in outcomes if word != "refused"), 1),
        "restarts": service.alerts,
        "same_process": service.pid == pid,
        "totals": totals,
        "unanswered": totals["accepted"] - sum(totals.get(end, 0) for end in ENDS),
        "endpoints": {path: _endpoint(watcher, path) for path in ENDPOINTS},
        "longest_without_health": round(watcher.unready, 1),
        "memory": _memory(watcher.memory),
        "lines": _lines(service),
    }


def _capacity(service: Service) -> float:
    """Return verdicts per second with a queue that is never empty and never full."""
    with Users(service.page, SATURATING, pause=0) as users:
        time.sleep(MEASURED_SECONDS / 4)
        users.take()
        began = time.monotonic()
        time.sleep(MEASURED_SECONDS)
        verdicts = sum(outcome.kind == "verdict" for outcome in users.take())
        return max(verdicts, 1) / (time.monotonic() - began)


def _record(users: Users, file: Path, until: float) -> list[tuple[str, float]]:
    """Return outcome and seconds of each request; write them to ``file``, one per line."""
    kept: list[tuple[str, float]] = []
    offset = time.time() - time.monotonic()
    with file.open("w", encoding="utf-8") as lines:
        lines.write("asked_unix\tseconds\toutcome\tdetail\n")
        while time.monotonic() < until:
            time.sleep(1.0)
            for outcome in users.take():
                lines.write(_line(outcome, offset))
                kept.append((outcome.word, outcome.ended - outcome.asked))
            lines.flush()
    return kept


def _line(outcome: Outcome, offset: float) -> str:
    seconds = outcome.ended - outcome.asked
    return f"{outcome.asked + offset:.2f}\t{seconds:.2f}\t{outcome.kind}\t{outcome.detail}\n"


def _drained(service: Service) -> dict[str, int]:
    """Return the engine's totals once it is idle."""
    give_up = time.monotonic() + DRAIN_SECONDS
    while True:
        queue = json.loads(fetch(f"{service.health}/health")[1])["queue"]
        if queue["state"] == "idle" or time.monotonic() > give_up:
            return dict(queue["totals"])
        time.sleep(0.1)


def _endpoint(watcher: Watcher, path: str) -> dict[str, Any]:
    seconds = watcher.seconds[path]
    return {
        "statuses": {str(status): count for status, count in sorted(watcher.statuses[path].items())},
        "median_ms": round(1000 * statistics.median(seconds), 1),
        "p99_ms": round(1000 * statistics.quantiles(seconds, n=100)[-1], 1),
        "longest_ms": round(1000 * max(seconds), 1),
    }


def _memory(samples: list[tuple[float, int]]) -> dict[str, float]:
    """Return RSS in MiB after warm-up, at the end and at peak, and its linear growth in MiB per minute."""
    warm = [sample for sample in samples if sample[0] >= WARM_SECONDS] or samples
    slope = statistics.linear_regression([at for at, _ in warm], [size for _, size in warm]).slope
    edge = max(1, len(warm) // 20)  # single samples vary with the pictures being decoded
    return {
        "warm_mib": round(statistics.fmean(size for _, size in warm[:edge]) / 2**20, 1),
        "end_mib": round(statistics.fmean(size for _, size in warm[-edge:]) / 2**20, 1),
        "most_mib": round(max(size for _, size in samples) / 2**20, 1),
        "growth_mib_per_minute": round(60 * slope / 2**20, 3),
    }


def _lines(service: Service) -> dict[str, int]:
    """Count log lines by level, rotated files included."""
    found: Counter[str] = Counter()
    for path in service.run_dir.glob("web_app.log*"):
        found.update(re.findall(r"^\S+ \S+ \| ([A-Z]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    return dict(sorted(found.items()))


def as_markdown(figures: dict[str, Any]) -> str:
    """Return the figures as a Markdown table."""
    outcomes, memory = figures["outcomes"], figures["memory"]
    offered = (
        f"{figures['offered']} requests per second for {figures['minutes']:g} minutes; answered "
        f"{figures['answered']} per second, {figures['capacity']} without overload"
    )
    saw = ", ".join(f"{count} {word}" for word, count in outcomes.items())
    grown = (
        f"{memory['warm_mib']} MiB after two minutes, {memory['end_mib']} at the end, "
        f"peak {memory['most_mib']}; linear growth {memory['growth_mib_per_minute']} MiB per minute"
    )
    rows = [
        ("offered", offered),
        ("restarts", str(figures["restarts"])),
        ("accepted but not answered", f"{figures['unanswered']} of {figures['totals']['accepted']}"),
        ("verdicts that differ from the first", str(outcomes.get("invented", 0))),
        ("what users saw", f"{saw}; longest wait {figures['longest_wait']} s"),
        *((f"`{path}`", _endpoint_cell(one)) for path, one in figures["endpoints"].items()),
        ("longest period without `OK` from `/health/simple`", f"{figures['longest_without_health']} s"),
        ("RSS", grown),
        ("lines in the log", ", ".join(f"{count} {level}" for level, count in figures["lines"].items())),
    ]
    return "\n".join(["| what | figure |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)])


def _endpoint_cell(endpoint: dict[str, Any]) -> str:
    statuses = ", ".join(f"{count} × {status}" for status, count in endpoint["statuses"].items())
    return f"{statuses}; median {endpoint['median_ms']:g} ms, longest {endpoint['longest_ms']:g} ms"

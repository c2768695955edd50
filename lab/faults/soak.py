"""A long overload of a guarded instance: what becomes of every question, of health and of memory.

    python -m lab.faults.report --soak 30 [--keep FOLDER]

Measures what the instance answers at most, offers several times that for so many minutes, and counts:
restarts (each one is wrong), accepted questions without an answer, verdicts that differ from the first to
the same question, what the health endpoints said, how the resident memory grew. All logs stay in FOLDER.
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

SATURATING = 8  # users without pause who keep the engine busy and fill no queue of 32
MEASURED_SECONDS = 20.0
MOST_USERS = 96
WARM_SECONDS = 120.0  # after these the memory that a server takes once has been taken
DRAIN_SECONDS = 60.0
ENDS = ("answered", "timeout", "error", "abandoned", "stopping")


def soak(service: Service, minutes: float, times: float) -> dict[str, Any]:
    """The figures of one soak. Raises AssertionError if the service never got healthy."""
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
    """Verdicts a second when there is always a question to answer, and never one too many."""
    with Users(service.page, SATURATING, pause=0) as users:
        time.sleep(MEASURED_SECONDS / 4)
        users.take()
        began = time.monotonic()
        time.sleep(MEASURED_SECONDS)
        verdicts = sum(outcome.kind == "verdict" for outcome in users.take())
        return max(verdicts, 1) / (time.monotonic() - began)


def _record(users: Users, file: Path, until: float) -> list[tuple[str, float]]:
    """What became of each question and how long it took; a line each in ``file``."""
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
    """The engine's totals once it has nothing left to do."""
    give_up = time.monotonic() + DRAIN_SECONDS
    while True:
        queue = json.loads(fetch(f"{service.health.report}/health")[1])["queue"]
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
    """Resident MiB once warm, at the end and at most; and the growth in MiB a minute by a straight line."""
    warm = [sample for sample in samples if sample[0] >= WARM_SECONDS] or samples
    slope = statistics.linear_regression([at for at, _ in warm], [size for _, size in warm]).slope
    edge = max(1, len(warm) // 20)  # single samples swing by the pictures that are being read
    return {
        "warm_mib": round(statistics.fmean(size for _, size in warm[:edge]) / 2**20, 1),
        "end_mib": round(statistics.fmean(size for _, size in warm[-edge:]) / 2**20, 1),
        "most_mib": round(max(size for _, size in samples) / 2**20, 1),
        "growth_mib_per_minute": round(60 * slope / 2**20, 3),
    }


def _lines(service: Service) -> dict[str, int]:
    """How many lines of which level there are in the logs, old ones included."""
    found: Counter[str] = Counter()
    for path in service.run_dir.glob("web_app.log*"):
        found.update(re.findall(r"^\S+ \S+ \| ([A-Z]+)", path.read_text(encoding="utf-8"), re.MULTILINE))
    return dict(sorted(found.items()))


def in_words(figures: dict[str, Any]) -> str:
    """The figures as a table in Markdown."""
    outcomes, memory = figures["outcomes"], figures["memory"]
    offered = (
        f"{figures['offered']} questions a second for {figures['minutes']:g} minutes, of which it answered "
        f"{figures['answered']}; without overload it answered {figures['capacity']}"
    )
    saw = ", ".join(f"{count} {word}" for word, count in outcomes.items())
    grown = (
        f"{memory['warm_mib']} MiB after two minutes, {memory['end_mib']} at the end, {memory['most_mib']} "
        f"at most; {memory['growth_mib_per_minute']} MiB a minute by a straight line"
    )
    rows = [
        ("offered", offered),
        ("restarts", str(figures["restarts"])),
        ("accepted and not answered", f"{figures['unanswered']} of {figures['totals']['accepted']}"),
        ("verdicts other than at first", str(outcomes.get("invented", 0))),
        ("what users saw", f"{saw}; longest wait {figures['longest_wait']} s"),
        *((f"`{path}`", _said(said)) for path, said in figures["endpoints"].items()),
        ("longest without `OK` of `/health/simple`", f"{figures['longest_without_health']} s"),
        ("resident memory", grown),
        ("lines in the log", ", ".join(f"{count} {level}" for level, count in figures["lines"].items())),
    ]
    return "\n".join(["| what | figure |", "|---|---|", *(f"| {name} | {said} |" for name, said in rows)])


def _said(said: dict[str, Any]) -> str:
    statuses = ", ".join(f"{count} × {status}" for status, count in said["statuses"].items())
    return f"{statuses}; median {said['median_ms']:g} ms, longest {said['longest_ms']:g} ms"

"""Measure start to first verdict, start to healthy, and peak RSS, with a warm page cache."""

from __future__ import annotations

import sys
import time
from typing import Any, Final

from lab.bench.processes import MemoryWatch, running, wait_for, warm
from lab.bench.sides import FP32, INT8, REFERENCE, Subject
from lab.bench.timing import Spread
from lab.instances.ports import free_ports
from lab.reference.process import ReferenceProcess

HEALTHY_SECONDS: Final = 300.0
SETTLE_SECONDS: Final = 15.0


def start(subject: Subject) -> dict[str, Any]:
    """Measure `python -m ofa` and the web app in every precision, and ModelScope's pipeline."""
    runs = 1 if subject.quick else 3
    warm(subject.folder)
    sides = {FP32: ["--dtype", FP32]}
    if subject.low_name != FP32:
        low = ["--dtype", subject.low_name, "--precision-guard"]
        fast = {subject.low_name: [*low, "off"]}
        sides = fast if subject.quick else {**sides, **fast, subject.guarded_name: [*low, "on"]}
    if subject.computes_int8 and not subject.quick:
        sides[f"{INT8}, guard on"] = ["--dtype", INT8]
    first: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    web: dict[str, list[dict[str, Any]]] = {name: [] for name in sides}
    references: list[dict[str, Any]] = []
    # The first turn writes the converted weights and is not counted.
    for turn in range(0 if subject.quick else -1, runs):
        for name, flags in sides.items():
            # Work after the web app is healthy, such as loading the guard's fp32 weights, is watched once.
            watch = SETTLE_SECONDS if turn == runs - 1 and not subject.quick else 0.0
            command_line, web_app = _first_verdict(subject, flags), _healthy(subject, flags, watch)
            if turn >= 0:
                first[name].append(command_line)
                web[name].append(web_app)
        if subject.python is not None and turn >= 0 and len(references) < 2:
            references.append(_reference(subject))
    result: dict[str, Any] = {
        "first_verdict": {name: _summed(values) for name, values in first.items()},
        "web_app_healthy": {name: _summed(values) for name, values in web.items()},
    }
    if references:
        result["first_verdict"][REFERENCE] = _summed(references)
    return result


def _first_verdict(subject: Subject, flags: list[str]) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "ofa", "--model", str(subject.folder), "--device", subject.device),
        *("--image", str(subject.pictures[0]), "--text", "a photo", *flags),
    ]
    began = time.monotonic()
    with running(command, subject.scratch, **_cache(subject)) as child:
        with MemoryWatch(child.pid) as memory:
            assert child.stdout is not None
            line = child.stdout.readline()
            seconds = time.monotonic() - began
        if not line or child.wait(HEALTHY_SECONDS) != 0:  # it may still write converted weights
            raise RuntimeError(f"no verdict came: {' '.join(command[1:])}")
    return {"seconds": seconds, **memory.as_dict()}


def _cache(subject: Subject) -> dict[str, str]:
    """Keep converted weights with the bench's other files."""
    return {"MODELSCOPE_CACHE": str(subject.cache)}


def _healthy(subject: Subject, flags: list[str], watch: float) -> dict[str, Any]:
    """Measure the web app; watch its memory for ``watch`` seconds after it is healthy."""
    health, page = free_ports(2)
    command = [
        *(sys.executable, "web_app.py", "--model", str(subject.folder), "--device", subject.device),
        *("--host", "127.0.0.1", "--port", str(page)),
        *("--health-host", "127.0.0.1", "--health-port", str(health)),
        *("--run-dir", str(subject.scratch / "run"), *flags),
    ]
    began = time.monotonic()
    with running(command, subject.scratch, **_cache(subject)) as child, MemoryWatch(child.pid) as memory:
        wait_for(child, health, "/health/simple", HEALTHY_SECONDS)
        seconds = time.monotonic() - began
        time.sleep(watch)
    return {"seconds": seconds, **memory.as_dict()}


def _reference(subject: Subject) -> dict[str, Any]:
    assert subject.python is not None
    began = time.monotonic()
    with ReferenceProcess(subject.python) as reference, MemoryWatch(reference.pid) as memory:
        reference.load(subject.folder, subject.device)
        reference.ask("judge", picture=str(subject.pictures[0]), text="a photo")
        seconds = time.monotonic() - began
    return {"seconds": seconds, **memory.as_dict()}


def _summed(values: list[dict[str, Any]]) -> dict[str, Any]:
    spread = Spread([value["seconds"] for value in values])
    figures = {name: max(value[name] for value in values) for name in values[0] if name != "seconds"}
    return {"seconds": spread.as_dict(), **figures}

"""What it costs to be asked about one's health, once a second at each of three endpoints."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from bench.cases import photograph, sentence
from bench.poller import ENDPOINTS
from bench.processes import cpu_seconds, free_port, get, running, wait_for
from bench.sides import ROOT, Subject
from health_api import Sidecar
from service.app import build
from service.settings import Settings


def polling(subject: Subject) -> dict[str, Any]:
    """Processor time of one answer, and the throughput of a polled service against one that is not."""
    each = _cpu_per_call(subject)
    cpus = len(os.sched_getaffinity(0))
    return {
        "cpu_ms_per_call": {path: round(1000 * seconds, 3) for path, seconds in each.items()},
        "cpu_share_at_1_hz_each": round(sum(each.values()) / cpus, 6),
        **_lost(subject),
    }


def _cpu_per_call(subject: Subject) -> dict[str, float]:
    """Of a service that has nothing else to do; what it uses while nobody asks is taken off."""
    calls = 100 if subject.quick else 400
    port = free_port()
    command = [
        *(sys.executable, "health_api.py", "--model", "demo", "--device", "cpu"),
        *("--health-host", "127.0.0.1", "--health-port", str(port)),
        *("--run-dir", str(subject.scratch / "run")),
    ]
    found: dict[str, float] = {}
    with running(command, subject.scratch) as child:
        wait_for(child, port, "/health/simple", 300.0)
        before, began = cpu_seconds(child.pid), time.monotonic()
        time.sleep(1.0 if subject.quick else 4.0)
        idle = (cpu_seconds(child.pid) - before) / (time.monotonic() - began)
        for path in ENDPOINTS:
            before, began = cpu_seconds(child.pid), time.monotonic()
            for _ in range(calls):
                get(port, path)
            used = cpu_seconds(child.pid) - before - idle * (time.monotonic() - began)
            found[path] = max(0.0, used) / calls
    return found


def _lost(subject: Subject) -> dict[str, Any]:
    """One caller's requests through the whole application, in alternating windows with and without polls."""
    requests, windows = (4, 2) if subject.quick else (8, 6)
    settings = Settings(
        model=str(subject.folder),
        device=subject.device,
        dtype=subject.low_name,
        # What is done in the background after the first verdict would be measured as well.
        precision_guard="off",
        converted_cache="off",
        run_dir=subject.scratch / "run",
        timeout=600.0,
        probe_interval=3600.0,
    )
    application = build(settings)
    sidecar = Sidecar(application, "127.0.0.1", 0)
    seconds: dict[bool, list[float]] = {False: [], True: []}
    try:
        if not application.load():
            raise RuntimeError("the model could not be loaded")
        sidecar.start()
        pictures = [photograph(seed) for seed in range(requests)]
        for window in range(-1, windows):
            for polled in (False, True) if window % 2 else (True, False):
                with _polled(sidecar.port, polled):
                    for index, picture in enumerate(pictures):
                        began = time.perf_counter()
                        application.submit(picture, sentence(index)).result()
                        spent = time.perf_counter() - began
                        if window >= 0:
                            seconds[polled].append(spent)
    finally:
        sidecar.stop()
        application.stop(5.0)
    alone, with_polls = median(seconds[False]), median(seconds[True])
    return {
        "side": subject.low_name,
        "requests": len(seconds[True]),
        "request_seconds_alone": round(alone, 4),
        "request_seconds_polled": round(with_polls, 4),
        "throughput_lost": round(1 - alone / with_polls, 4),
    }


@contextmanager
def _polled(port: int, polled: bool) -> Iterator[None]:
    """Another process asks while the block runs, as a monitor does; it uses this machine's processors."""
    if not polled:
        yield
        return
    poller = subprocess.Popen(
        [sys.executable, "-m", "bench.poller", str(port)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert poller.stdout is not None
        poller.stdout.readline()  # its own start is not what is measured
        yield
    finally:
        poller.terminate()
        poller.communicate()

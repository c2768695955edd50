"""Measure the cost of health polls at 1 Hz on each of three endpoints."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from PIL import Image

from lab import ROOT
from lab.bench.cases import photograph, sentence
from lab.bench.poller import ENDPOINTS
from lab.bench.processes import cpu_seconds, get, running, wait_for
from lab.bench.sides import Subject
from lab.bench.timing import bounds
from lab.instances.ports import free_ports
from service.application import Application
from service.build import build
from service.health.api import Sidecar
from service.listening import listen
from service.settings import Settings


def polling(subject: Subject) -> dict[str, Any]:
    """Measure the CPU time of one answer, and throughput with and without polls."""
    each = _cpu_per_call(subject)
    cpus = len(os.sched_getaffinity(0))
    return {
        "cpu_ms_per_call": {path: round(1000 * seconds, 3) for path, seconds in each.items()},
        "cpu_share_at_1_hz_each": round(sum(each.values()) / cpus, 6),
        **_lost(subject),
    }


def _cpu_per_call(subject: Subject) -> dict[str, float]:
    """Measure an idle service; its CPU time without polls is subtracted."""
    calls = 100 if subject.quick else 400
    (port,) = free_ports(1)
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
    """Send one caller's requests through the application in alternating windows with and without polls.

    The cost of polls is small against the spread of requests, so each request is compared with the same one
    of the other window; the median comes with its confidence bounds."""
    requests, rounds = (4, 2) if subject.quick else (6, 20)
    settings = Settings(
        model=str(subject.folder),
        device=subject.device,
        dtype=subject.low_name,
        # Wait for the background work after the first verdict, which would be measured too.
        precision_guard="off",
        converted_cache="off",
        run_dir=subject.scratch / "run",
        timeout=600.0,
        probe_interval=3600.0,
    )
    application = build(settings)
    sidecar = Sidecar(application, listen("127.0.0.1", 0, "--health-port"))
    windows: dict[bool, list[float]] = {False: [], True: []}
    try:
        if not application.supervisor.load():
            raise RuntimeError("the model could not be loaded")
        sidecar.start()
        pictures = [photograph(seed) for seed in range(requests)]
        for turn in range(-1, rounds):
            for polled in (False, True) if turn % 2 else (True, False):
                with _polled(sidecar.port, polled):
                    window = [_asked(application, picture, turn) for picture in pictures]
                if turn >= 0:
                    windows[polled] += window
    finally:
        sidecar.stop()
        application.supervisor.stop(5.0)
    lost = [1 - alone / polled for alone, polled in zip(windows[False], windows[True], strict=True)]
    low, high = bounds(lost)
    return {
        "side": subject.low_name,
        "requests": len(lost),
        "request_seconds_alone": round(median(windows[False]), 4),
        "request_seconds_polled": round(median(windows[True]), 4),
        "throughput_lost": round(median(lost), 4),
        "throughput_lost_between": [round(low, 4), round(high, 4)],
    }


def _asked(application: Application, picture: Image.Image, turn: int) -> float:
    began = time.perf_counter()
    application.submit(picture, sentence(turn)).result()
    return time.perf_counter() - began


@contextmanager
def _polled(port: int, polled: bool) -> Iterator[None]:
    """Run a monitor process, which shares this machine's processors, while the block runs."""
    if not polled:
        yield
        return
    poller = subprocess.Popen(
        [sys.executable, "-m", "lab.bench.poller", str(port)], cwd=ROOT, stdout=subprocess.PIPE
    )
    try:
        assert poller.stdout is not None
        poller.stdout.readline()  # do not measure its start
        yield
    finally:
        poller.terminate()
        poller.communicate()

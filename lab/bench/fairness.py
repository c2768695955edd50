"""What overload by one caller does to another, and how good the predicted wait is."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any, Final

from lab import ROOT
from lab.bench.cases import photograph, sentence
from lab.bench.load import LONG, Adapter
from lab.bench.processes import running, wait_for
from lab.bench.sides import Subject
from lab.bench.timing import Spread
from lab.instances.ports import free_ports
from ofa.precision import name_of
from service.contract.events import NO_EVENTS
from service.contract.request import Pair, Request, VerdictFuture
from service.inference.engine import Engine
from service.inference.jobs import Limits

IN_FLIGHT: Final = 200
QUEUES: Final = (8, 16, 48)


def fair(subject: Subject) -> dict[str, Any]:
    """Measure a lone caller's latency over HTTP, alone and beside a greedy caller."""
    requests, in_flight = (4, 20) if subject.quick else (50, IN_FLIGHT)
    port, health_port = free_ports(2)
    command = [
        *(sys.executable, "web_app.py", "--model", str(subject.folder), "--device", subject.device),
        *("--host", "127.0.0.1", "--port", str(port), "--trusted-proxies", "127.0.0.1"),
        *("--health-host", "127.0.0.1", "--health-port", str(health_port)),
        *("--run-dir", str(subject.scratch / "run"), "--timeout", "120", "--converted-cache", "off"),
    ]
    client = [
        *(sys.executable, "-m", "lab.bench.crowd", str(port), str(subject.pictures[0])),
        *(str(requests), str(in_flight)),
    ]
    with running(command, subject.scratch) as child:
        wait_for(child, health_port, "/readyz", 600.0)
        measured = json.loads(subprocess.check_output(client, cwd=ROOT, text=True))
    return {
        "in_flight": in_flight,
        "alone": Spread(measured["alone"]).as_dict(),
        "beside": Spread(measured["beside"]).as_dict(),
        "greedy": measured["greedy"],
    }


def retry(subject: Subject) -> dict[str, Any]:
    """Compare the Retry-After of a refusal by a full queue with the seconds until that queue was answered."""
    rounds = 1 if subject.quick else 5
    levels = [_level(subject, size, rounds) for size in (QUEUES[:1] if subject.quick else QUEUES)]
    return {"side": subject.low_name, "levels": levels}


def _level(subject: Subject, size: int, rounds: int) -> dict[str, Any]:
    engine = Engine(
        Adapter(subject.fast, subject.device, name_of(subject.fast.dtype)), NO_EVENTS, Limits(queue_size=size)
    )
    side = subject.fast.task.patch_image_size
    pictures = [photograph(seed, side, side) for seed in range(8)]

    def ask(number: int) -> VerdictFuture:
        now = time.monotonic()
        pair = Pair(pictures[number % len(pictures)].copy(), sentence(number))
        return engine.submit(Request(f"bench-{number}", pair, now, now + LONG))

    predicted, actual, place = [], [], []
    engine.start()
    try:
        for turn in range(-1, rounds):  # the first one only measures the time of a request
            futures = [ask(number) for number in range(size)]
            while (refused := ask(len(futures))).queue_estimate is not None:
                futures.append(refused)
            began, wait = time.monotonic(), refused.result().retry_after
            waiting = sum(not future.done() for future in futures)
            while sum(not future.done() for future in futures) >= waiting:
                time.sleep(0.001)
            first = time.monotonic() - began
            for future in futures:
                future.result(LONG)
            if turn >= 0 and wait is not None:
                predicted.append(wait)
                actual.append(time.monotonic() - began)
                place.append(first)
    finally:
        engine.stop(0.0)
    return {
        "queue": size,
        "rounds": rounds,
        "predicted": Spread(predicted).median,
        "actual": round(Spread(actual).median, 3),
        "first_place": round(Spread(place).median, 3),
        "largest_error": round(max(abs(one - real) for one, real in zip(predicted, actual, strict=True)), 3),
    }

"""What Ray costs: `.venv-ray/bin/python -m lab.cluster.bench`, and with `routing` what its router costs.

The first compares clusters of one and two replicas with one instance alone and with two behind HAProxy: the
demo model, one thread each, all on this machine and in turn. The second has 4 and 16 replicas whose model
only sleeps. Both print Markdown tables.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import threading
import time
from base64 import b64encode
from contextlib import ExitStack
from http.client import HTTPConnection
from pathlib import Path
from typing import Final, NamedTuple

from lab import ROOT
from lab.bench.balanced import instance, table
from lab.bench.processes import running, wait_for
from lab.bench.timing import Spread
from lab.cluster.local import SLEEP, Cluster
from lab.faults.users import red_circle
from lab.instances import balancers
from lab.instances.ports import free_ports

PICTURE: Final = ROOT / "models/demo/examples/existence.png"
ROUNDS: Final = 2
START_SECONDS: Final = 150.0
#: Replicas, and calls per second for all of them: with the last, three quarters of what they can.
LOADS: Final = ((4, (12.0,)), (16, (12.0, 48.0)))
SLEEP_SECONDS: Final = 0.25
SECONDS: Final = 6.0


def compare() -> str:
    """Return calls per second and latency of all sides."""
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        scratch = Path(folder)
        ports = {"one instance": instance(held, scratch).port}
        pair = [instance(held, scratch) for _ in range(2)]
        balancer = held.enter_context(balancers.haproxy(scratch, pair))
        balancer.wait_ready("1", "2")
        ports["HAProxy, two instances"] = balancer.port
        for replicas in (1, 2):
            ports[f"Ray, replicas: {replicas}"] = _cluster(held, scratch, replicas)
        return table(ports, PICTURE.read_bytes(), ROUNDS)


def _cluster(held: ExitStack, scratch: Path, replicas: int) -> int:
    (port,) = free_ports(1)
    command = [
        *(sys.executable, "-m", "cluster", "--replicas", str(replicas), "--port", str(port)),
        *("--", "--model", "demo", "--device", "cpu", "--run-dir", str(scratch / f"cluster{replicas}")),
    ]
    wait_for(held.enter_context(running(command, scratch)), port, "/readyz", START_SECONDS)
    return port


class Timed(NamedTuple):
    """A call: seconds in all, and those that it waited in an engine's queue and was computed."""

    total: float
    engine: float

    @property
    def cost(self) -> float:
        return self.total - self.engine


def call(port: int, body: str) -> Timed:
    """Judge once on a new connection. Raises RuntimeError without a verdict."""
    began = time.perf_counter()
    connection = HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("POST", "/v1/judge", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        response.read()
    finally:
        connection.close()
    total = time.perf_counter() - began
    if response.status != 200:
        raise RuntimeError(f"the cluster answered {response.status}")
    timing = dict(part.strip().split(";dur=") for part in response.headers["Server-Timing"].split(","))
    return Timed(total, (float(timing["queue"]) + float(timing["compute"])) / 1000)


def open_loop(port: int, body: str, rate: float, seconds: float) -> list[Timed]:
    """Call ``rate`` times per second, whether or not earlier calls have been answered."""
    answers: list[Timed] = []
    threads = [
        threading.Thread(target=lambda: answers.append(call(port, body))) for _ in range(int(rate * seconds))
    ]
    began = time.monotonic()
    for number, thread in enumerate(threads):
        time.sleep(max(0.0, began + number / rate - time.monotonic()))
        thread.start()
    for thread in threads:
        thread.join()
    if len(answers) < len(threads):
        raise RuntimeError(f"{len(threads) - len(answers)} calls without a verdict")
    return answers


def routing() -> str:
    """Return the time that a call spends outside the engines, by their number."""
    image = b64encode(red_circle()).decode()
    body = json.dumps({"image": image, "text": "there is a red circle"})
    lines = [
        f"{os.cpu_count()} processors; a computation sleeps {SLEEP_SECONDS:g} s",
        "",
        "| replicas | ready after | calls per second | outside the engines: p50 | p95 |",
        "|---|---|---|---|---|",
    ]
    flags = ("--model", "demo", "--max-batch", "1", "--probe-interval", "3600")
    environment = {SLEEP: str(SLEEP_SECONDS)}
    for replicas, rates in LOADS:
        began = time.monotonic()
        with (
            tempfile.TemporaryDirectory() as folder,
            Cluster(Path(folder), "SleepingJudge", replicas, *flags, environment=environment) as cluster,
        ):
            cluster.wait_ready(replicas)
            ready = time.monotonic() - began
            for rate in rates:
                open_loop(cluster.port, body, rate, SECONDS / 4)  # warms up
                cost = Spread([one.cost for one in open_loop(cluster.port, body, rate, SECONDS)])
                median, p95 = 1000 * cost.median, 1000 * cost.p95
                lines.append(f"| {replicas} | {ready:.0f} s | {rate:g} | {median:.1f} ms | {p95:.1f} ms |")
            cluster.terminate()
    return "\n".join(lines)


if __name__ == "__main__":
    print(routing() if sys.argv[1:] == ["routing"] else compare())

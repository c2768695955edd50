"""`python -m lab.bench.balanced`: calls per second of one instance alone, of a page in front of it, and
of one and two instances behind HAProxy.

The demo model on a CPU, with CLIENTS callers in a closed loop, and with one for the latency. The sides take
turns in one run. Prints a Markdown table.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import psutil

from lab import ROOT
from lab.bench.cases import sentence
from lab.bench.processes import running, wait_for
from lab.bench.timing import Spread
from lab.instances import balancers
from lab.instances.balancers import Place
from lab.instances.client import judge
from lab.instances.ports import free_ports

CLIENTS: Final = 8
ROUNDS: Final = 4
SECONDS: Final = 4.0  # of a side in a round with CLIENTS callers
SINGLE: Final = 1.0  # with one


def closed_loop(port: int, picture: bytes, clients: int, seconds: float) -> list[float]:
    """Return the seconds of each call. Raises RuntimeError if one has no verdict."""
    spent: list[float] = []
    failed: list[int] = []
    end = time.monotonic() + seconds

    def client(number: int) -> None:
        while (began := time.monotonic()) < end:
            number += clients
            answer = judge(port, picture, sentence(number))
            spent.append(time.monotonic() - began)
            if answer.status != 200:
                failed.append(answer.status)

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise RuntimeError(f"{len(failed)} calls without a verdict: {set(failed)}")
    return spent


def instance(held: ExitStack, scratch: Path) -> Place:
    """Start an instance of the demo model, without the page.

    With one thread, since two wait for each other where the callers take processors of the same machine.
    """
    model = ("--model", "demo", "--device", "cpu", "--threads", "1")
    return started(held, scratch, *model, "--page", "off")[0]


def started(held: ExitStack, scratch: Path, *flags: str) -> tuple[Place, int]:
    """Start ``web_app.py``, wait until it is ready, and return where it is and its PID."""
    place = Place(*free_ports(2))
    command = [
        *(sys.executable, "web_app.py", *flags),
        *("--host", "127.0.0.1", "--port", str(place.port), "--trusted-proxies", "127.0.0.1"),
        *("--health-host", "127.0.0.1", "--health-port", str(place.health_port)),
        *("--run-dir", str(scratch / f"run{place.port}")),
    ]
    child = held.enter_context(running(command, scratch))
    wait_for(child, place.health_port, "/readyz", 120.0)
    return place, child.pid


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as held:
        scratch = Path(folder)
        ports: dict[str, int] = {}
        alone, engine = started(held, scratch, "--model", "demo", "--device", "cpu", "--threads", "1")
        ports["one instance"] = alone.port
        front, page = started(held, scratch, "--engine", f"http://127.0.0.1:{alone.port}")
        ports["the page in front of it"] = front.port
        places = {
            "HAProxy, one instance": [alone, alone],
            "HAProxy, two instances": [instance(held, scratch) for _ in range(2)],
        }
        for side, pair in places.items():
            (own := scratch / str(len(ports))).mkdir()
            balancer = held.enter_context(balancers.haproxy(own, pair))
            balancer.wait_ready("1", "2")
            ports[side] = balancer.port
        print(table(ports, (ROOT / "models/demo/examples/existence.png").read_bytes()))
        for name, pid in (("instance with its page", engine), ("page in front", page)):
            print(f"resident memory of the {name}: {psutil.Process(pid).memory_info().rss / 1e6:.0f} MB")


def table(ports: dict[str, int], picture: bytes, rounds: int = ROUNDS) -> str:
    """Measure the servers at ``ports`` in turn, and return a row for each."""
    many: dict[str, list[float]] = {side: [] for side in ports}
    single: dict[str, list[float]] = {side: [] for side in ports}
    for turn in range(-1, rounds):
        for side in list(ports)[:: 1 if turn % 2 else -1]:
            one = closed_loop(ports[side], picture, 1, SINGLE)
            all_ = closed_loop(ports[side], picture, CLIENTS, SECONDS if turn >= 0 else SINGLE)
            if turn >= 0:  # the first round warms up
                single[side] += one
                many[side] += all_
    lines = [
        f"{os.cpu_count()} processors, {CLIENTS} callers; one caller for the latency",
        "",
        "| side | calls per second | p50 | p95 | p50 of one caller |",
        "|---|---|---|---|---|",
    ]
    for side in ports:
        rate, spread = len(many[side]) / (rounds * SECONDS), Spread(many[side])
        lines.append(
            f"| {side} | {rate:.0f} | {1000 * spread.median:.0f} ms | {1000 * spread.p95:.0f} ms "
            f"| {1000 * Spread(single[side]).median:.1f} ms |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()

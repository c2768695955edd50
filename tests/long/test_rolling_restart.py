"""Two instances behind HAProxy are restarted one after the other, and no request fails."""

from __future__ import annotations

import re
import socket
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path

import pytest

from lab.faults.users import red_circle
from lab.instances.client import judge
from lab.instances.instance import EXIT_SECONDS, ROOT, Instance
from lab.instances.ports import free_ports
from tests.fakes import until

REQUESTS = 1000
CLIENTS = 4
SERVERS = ("one", "two")
FLAGS = ("--model", "demo", "--drain-delay", "3", "--trusted-proxies", "127.0.0.1")


def block(ports: list[tuple[int, int]]) -> str:
    """The backend of docs/proxies.md, for instances at these pairs of ports."""
    document = (ROOT / "docs" / "proxies.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"^```haproxy\n(backend instances\n.*?)^```", document, re.M | re.S)
    for name, (port, health_port) in zip(SERVERS, ports, strict=True):
        found = re.sub(
            rf"(server {name}) \S+ (.*) port \d+", rf"\1 127.0.0.1:{port} \2 port {health_port}", found
        )
        assert str(health_port) in found
    return str(found)


class Balancer:
    """HAProxy on ``port``."""

    def __init__(self, folder: Path, ports: list[tuple[int, int]]) -> None:
        (self.port,) = free_ports(1)
        self._control = folder / "control"
        (folder / "haproxy.cfg").write_text(
            f"global\n    stats socket {self._control} level user\n"
            f"frontend api\n    mode http\n    bind 127.0.0.1:{self.port}\n    timeout client 75s\n"
            f"    default_backend instances\n{block(ports)}"
        )
        self.command = ["haproxy", "-db", "-f", str(folder / "haproxy.cfg")]

    def up(self) -> set[str]:
        """The servers that get requests."""
        with socket.socket(socket.AF_UNIX) as control:
            if control.connect_ex(str(self._control)) != 0:
                return set()
            control.sendall(b"show stat\n")
            answer = b""
            while part := control.recv(65536):
                answer += part
        rows = [line.split(",") for line in answer.decode().splitlines() if line.startswith("instances,")]
        return {row[1] for row in rows if row[1] in SERVERS and row[17] == "UP"}


@contextmanager
def balancing(folder: Path, ports: list[tuple[int, int]]) -> Iterator[Balancer]:
    balancer = Balancer(folder, ports)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(balancer.command, stdout=output, stderr=output)
    try:
        until(lambda: balancer.up() == set(SERVERS))
        yield balancer
    finally:
        process.terminate()
        process.wait(EXIT_SECONDS)


class Load:
    """Clients that send requests until told to end, and what they got."""

    def __init__(self, port: int, picture: bytes) -> None:
        self._port = port
        self._picture = picture
        self._lock = threading.Lock()
        self.enough = threading.Event()
        self.results: Counter[str] = Counter()

    def more(self, instance: Instance, count: int) -> None:
        """Wait until ``count`` more requests have ended, while ``instance`` runs."""
        enough = self.results.total() + count
        instance.wait_for("requests", lambda: self.results.total() >= enough)

    def client(self) -> None:
        while not self.enough.is_set():
            try:
                answer = judge(self._port, self._picture, "there is a red circle")
                result = str(answer.body.get("code", answer.status))
            except (OSError, HTTPException) as error:
                result = type(error).__name__
            with self._lock:
                self.results[result] += 1


@pytest.mark.long
def test_no_request_fails_while_both_instances_are_restarted(tmp_path: Path) -> None:
    places = list(zip(*[iter(free_ports(4))] * 2, strict=True))
    instances = [
        Instance(tmp_path / name, *FLAGS, ports=ports) for name, ports in zip(SERVERS, places, strict=True)
    ]
    try:
        for instance in instances:
            instance.wait_healthy()
        with balancing(tmp_path, places) as balancer, ThreadPoolExecutor(CLIENTS) as pool:
            load = Load(balancer.port, red_circle())
            clients = [pool.submit(load.client) for _ in range(CLIENTS)]
            try:
                for number, name in enumerate(SERVERS):
                    load.more(instances[number], REQUESTS // 4)
                    assert instances[number].terminate() == 0
                    instances[number] = Instance(tmp_path / name, *FLAGS, ports=places[number])
                    instances[number].wait_for("its turn", lambda: balancer.up() == set(SERVERS))
                load.more(instances[0], max(1, REQUESTS - load.results.total()))
            finally:
                load.enough.set()
            for client in clients:
                client.result()
    finally:
        for instance in instances:
            instance.__exit__()
    assert load.results == {"200": load.results.total()}
    assert all("DRAINING" in (tmp_path / name / "web_app.log").read_text() for name in SERVERS)

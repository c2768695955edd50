"""Run HAProxy or nginx with the shipped configuration, in front of instances at other ports."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

from lab import ROOT
from lab.instances.guarded import wait_for
from lab.instances.ports import free_ports

HAPROXY: Final = ROOT / "deploy" / "haproxy" / "haproxy.cfg"
NGINX: Final = ROOT / "deploy" / "nginx" / "visual-entailment.conf"
FIRST_PORT: Final = 7860
FIRST_HEALTH_PORT: Final = 8000
_FRONT_PORT: Final = 8080
_END_SECONDS: Final = 60.0


class Place(NamedTuple):
    """Where an instance listens on 127.0.0.1."""

    port: int
    health_port: int


class Server(NamedTuple):
    """What HAProxy knows of a server: ``up`` and its requests in progress."""

    up: bool
    in_flight: int


class Balancer:
    """A running HAProxy or nginx on ``port``."""

    def __init__(self, port: int, control: Path) -> None:
        self.port = port
        self._control = control

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def servers(self, backend: str = "api") -> dict[str, Server]:
        """Ask HAProxy for the servers of ``backend``. Raises OSError."""
        with socket.socket(socket.AF_UNIX) as control:
            control.connect(str(self._control))
            control.sendall(b"show stat\n")
            answer = b"".join(iter(lambda: control.recv(65536), b""))
        rows = [line.split(",") for line in answer.decode().splitlines()]
        return {
            row[1]: Server(row[17].startswith(("UP", "no check")), int(row[4]))
            for row in rows
            if row[0] == backend and row[1] not in ("FRONTEND", "BACKEND")
        }

    def ready(self) -> set[str]:
        """Return the names of the servers that HAProxy found ready."""
        return {
            name for name, server in self.servers().items() if server.up and not name.startswith("unready")
        }

    def wait_ready(self, *names: str) -> None:
        wait_for("HAProxy to listen on its control socket", self._control.exists)
        wait_for(f"{names} to be ready", lambda: self.ready() == set(names), self.servers)


@contextmanager
def haproxy(folder: Path, places: Sequence[Place]) -> Iterator[Balancer]:
    """Run HAProxy for instances 1, 2, … at ``places``."""
    (port,) = free_ports(1)
    text = _at(HAPROXY, places, port)
    text = re.sub(r"^ +(user|group|log /).*\n", "", text, flags=re.MULTILINE)
    control = folder / "haproxy.sock"
    text = re.sub(r"stats socket \S+", f"stats socket {control}", text)
    (folder / "haproxy.cfg").write_text(text)
    with _running(["haproxy", "-db", "-f", str(folder / "haproxy.cfg")], folder, port):
        yield Balancer(port, control)


@contextmanager
def nginx(folder: Path, places: Sequence[Place]) -> Iterator[Balancer]:
    """Run nginx for instances 1, 2, … at ``places``."""
    (port,) = free_ports(1)
    with _running(nginx_command(folder, _at(NGINX, places, port)), folder, port):
        yield Balancer(port, folder)


def nginx_command(folder: Path, text: str) -> list[str]:
    """Write a configuration with the servers of ``text``; return a command that keeps to ``folder``."""
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in kinds)
    head = f"user root; daemon off; pid {folder}/nginx.pid; events {{}}\n"
    (folder / "nginx.conf").write_text(f"{head}http {{ {temporary}\n{text} }}")
    return ["nginx", "-p", str(folder), "-e", str(folder / "error.log"), "-c", str(folder / "nginx.conf")]


def _at(configuration: Path, places: Sequence[Place], port: int) -> str:
    """Return a shipped configuration with these ports."""
    text = configuration.read_text(encoding="utf-8")
    for number in range(3, len(places) + 1):
        text = re.sub(
            r"^(?=.*(?:127\.0\.0\.1:7861|/batches/02)).*\n", partial(_repeated, number), text, flags=re.M
        )
    for number, place in enumerate(places):
        text = text.replace(f"127.0.0.1:{FIRST_PORT + number}", f"127.0.0.1:{place.port}")
        text = text.replace(f"port {FIRST_HEALTH_PORT + number}\n", f"port {place.health_port}\n")
    text = text.replace(f"bind :{_FRONT_PORT}", f"bind 127.0.0.1:{port}")
    return text.replace(f"listen {_FRONT_PORT}", f"listen 127.0.0.1:{port}")


def _repeated(number: int, line: re.Match[str]) -> str:
    """Return a line of instance 2 and the same for ``number``, as the files say."""
    own = (
        line[0]
        .replace(":7861", f":{FIRST_PORT + number - 1}")
        .replace("8001", f"{FIRST_HEALTH_PORT + number - 1}")
    )
    return line[0] + re.sub(r"(?<=[ /]|y)2(?=[ \n])|(?<=/0)2", str(number), own)


@contextmanager
def _running(command: Sequence[str], folder: Path, port: int) -> Iterator[None]:
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)

    def listens() -> bool:
        assert process.poll() is None, (folder / "output").read_text()
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        wait_for("the balancer", listens)
        yield
    finally:
        process.terminate()
        process.wait(_END_SECONDS)

"""A cluster of several nodes on loopback: a head at 127.0.0.1 and a raylet at 127.0.0.2, 127.0.0.3, …

Needs a network namespace of its own with lo up: elsewhere Ray looks for its head at the machine's address.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Final, Self

import psutil

from lab.instances.guarded import wait_for

HEAD: Final = "127.0.0.1"
PORT: Final = 6379  # free in a network namespace of its own
ADDRESS: Final = f"{HEAD}:{PORT}"
STORE_BYTES: Final = 80_000_000  # the least that Ray accepts is 75 MB


def descendants(pid: int) -> list[psutil.Process]:
    """Return all processes below ``pid``; empty if it is gone."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


class Nodes:
    """A head without processors and ``count`` nodes with ``cpus`` each, all killed when the context ends."""

    def __init__(self, count: int, cpus: int, environment: Mapping[str, str]) -> None:
        # Not in a test's folder: the path of a socket has at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))
        self._environment = {**os.environ, **environment}
        self._processes = {
            HEAD: self._start(
                HEAD, "--head", f"--port={PORT}", "--num-cpus=0", f"--temp-dir={self._folder}",
                "--include-dashboard=false",
            )
        }  # fmt: skip
        for number in range(2, count + 2):
            ip = f"127.0.0.{number}"
            self._processes[ip] = self._start(ip, f"--address={ADDRESS}", f"--num-cpus={cpus}")

    def __enter__(self) -> Self:
        for ip in self._processes:
            wait_for(f"node {ip}", partial(self._started, ip), partial(self._output, ip))
        return self

    def __exit__(self, *_: object) -> None:
        for ip in reversed(self._processes):
            self.kill(ip)
        shutil.rmtree(self._folder)

    def kill(self, ip: str) -> None:
        """Kill a node with everything that runs on it."""
        process = self._processes[ip]
        below = descendants(process.pid)
        for one in (process, *below):
            with contextlib.suppress(psutil.Error):
                one.kill()
        process.wait()
        psutil.wait_procs(below, timeout=30)

    def holds(self, ip: str, title: str) -> bool:
        """Return whether a process with this title runs on a node."""
        for one in descendants(self._processes[ip].pid):
            with contextlib.suppress(psutil.Error):
                if " ".join(one.cmdline()).startswith(title):
                    return True
        return False

    def _output(self, ip: str) -> str:
        return (self._folder / f"node-{ip}").read_text()

    def _started(self, ip: str) -> bool:
        assert self._processes[ip].poll() is None, self._output(ip)
        return "Ray runtime started." in self._output(ip)

    def _start(self, ip: str, *arguments: str) -> subprocess.Popen[bytes]:
        program = Path(sys.executable).with_name("ray")
        common = (
            "--block",
            "--min-worker-port=0",
            "--max-worker-port=0",
            f"--node-ip-address={ip}",
            f"--object-store-memory={STORE_BYTES}",
        )
        with (self._folder / f"node-{ip}").open("wb") as output:
            return subprocess.Popen(
                [program, "start", *common, *arguments],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

"""A cluster of several nodes on loopback: a head at 127.0.0.1 and a raylet at 127.0.0.2, 127.0.0.3, …

Needs a network namespace of its own with lo up: elsewhere Ray looks for its head at the machine's address.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final, Self

import psutil

from cluster.local import ENVIRONMENT
from lab import ROOT
from lab.instances.guarded import wait_for

HEAD: Final = "127.0.0.1"
PORT: Final = 6379  # free in a network namespace of its own
ADDRESS: Final = f"{HEAD}:{PORT}"
COMMON: Final = (
    "--block",
    "--object-store-memory=80000000",  # the least that Ray accepts is 75 MB
    *("--min-worker-port=0", "--max-worker-port=0"),  # any
)


def descendants(pid: int) -> list[psutil.Process]:
    """Return all processes below ``pid``; empty if it is gone."""
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).children(recursive=True)
    return []


class Nodes:
    """A head without processors and ``count`` nodes with ``cpus`` each, all killed when the context ends."""

    def __init__(self, count: int, cpus: int) -> None:
        # Not in a test's folder: the path of a socket has at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="ray-"))
        self._secret = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray opens the other folder to all users
        token = self._secret / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))
        #: For programs that use this cluster.
        self.environment = {
            **ENVIRONMENT,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # several nodes, although on loopback
            "RAY_ADDRESS": ADDRESS,
            "RAY_AUTH_TOKEN_PATH": str(token),
            "PYTHONPATH": str(ROOT),
        }
        self._count, self._cpus = count, cpus
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        try:
            self._start(
                HEAD,
                "--head",
                f"--port={PORT}",
                "--num-cpus=0",
                f"--temp-dir={self._folder}",
                "--include-dashboard=false",
            )
            for number in range(2, self._count + 2):  # one after the other: they choose names in one folder
                self._start(f"127.0.0.{number}", f"--address={ADDRESS}", f"--num-cpus={self._cpus}")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for ip in reversed(self._processes):
            self.kill(ip)
        shutil.rmtree(self._folder)
        shutil.rmtree(self._secret)

    def kill(self, ip: str) -> None:
        """Kill a node with everything that runs on it."""
        process = self._processes[ip]
        below = descendants(process.pid)
        process.kill()
        for one in below:
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

    def _start(self, ip: str, *arguments: str) -> None:
        """Start a node and wait until it runs."""
        output = self._folder / f"node-{ip}"
        program = str(Path(sys.executable).with_name("ray"))
        with output.open("wb") as file:
            process = self._processes[ip] = subprocess.Popen(
                [program, "start", f"--node-ip-address={ip}", *arguments, *COMMON],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

        def started() -> bool:
            assert process.poll() is None, output.read_text()
            return "Ray runtime started." in output.read_text()

        wait_for(f"node {ip}", started, output.read_text)

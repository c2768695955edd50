"""Drive the real guardian.sh: a run directory, its guardian, and the instances it started."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

from lab import ROOT
from lab.instances.ports import free_ports

# Seconds; a bound for a failed run on a busy machine.
PATIENCE = 240.0

# Seconds. CHECK_TIMEOUT is long, so that a busy machine does not look like a hung instance.
QUICK: Mapping[str, str] = {
    "WATCH_INTERVAL": "0.05",
    "CHECK_INTERVAL": "0.1",
    "CHECK_TIMEOUT": "5",
    "UNHEALTHY_LIMIT": "0.5",
    "START_STALL": "20",
    "STOP_TIMEOUT": "10",
    "HUNG_STOP_TIMEOUT": "0.2",
    "BACKOFF_FIRST": "0.02",
}


class Launch(NamedTuple):
    pid: int
    start_ticks: int
    arguments: list[str]

    @property
    def runs(self) -> bool:
        """Whether this process still runs (same PID and start time, not a zombie)."""
        fields = stat_of(self.pid)
        return bool(fields) and fields[0] not in "ZX" and int(fields[19]) == self.start_ticks


def stat_of(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on; empty without the process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def wait_for(what: str, happened: Callable[[], Any], seen: Callable[[], object] = str) -> None:
    """Wait until ``happened()``; on timeout raise AssertionError with ``seen()``."""
    give_up = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < give_up, f"timeout while waiting for {what}:\n{seen()}"
        time.sleep(0.02)


def kill_all(run_dir: Path) -> None:
    """Kill all processes that were started for this run directory."""
    mark = f"OFA_RUN_DIR={run_dir}".encode()
    for process in psutil.process_iter():
        with contextlib.suppress(OSError, psutil.Error):
            if mark in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                os.kill(process.pid, signal.SIGKILL)


def read_launches(run_dir: Path) -> list[Launch]:
    """The launches that the stand-in of the tests has noted."""
    file = run_dir / "launches"
    lines = file.read_text().splitlines() if file.exists() else []
    return [Launch(*json.loads(line)) for line in lines]


class Guarded:
    """One run directory with its guardians and instances, all killed when the context ends."""

    def __init__(
        self, run_dir: Path, interpreter: Path, times: Mapping[str, str] = QUICK, **settings: object
    ) -> None:
        self.run_dir = run_dir
        self.port, self.health_port = free_ports(2)
        self.guardians: list[subprocess.Popen[str]] = []
        run_dir.mkdir(exist_ok=True)
        variables = {
            "OFA_RUN_DIR": run_dir,
            "OFA_HOST": "127.0.0.1",
            "OFA_HEALTH_HOST": "127.0.0.1",
            "OFA_PORT": self.port,
            "OFA_HEALTH_PORT": self.health_port,
            "PYTHON": interpreter,
        }
        self.environment = {
            **os.environ,
            **times,
            **{n: str(v) for n, v in {**variables, **settings}.items()},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for guardian in self.guardians:
            guardian.kill()
            guardian.wait()
            if guardian.stdout:
                guardian.stdout.close()
        kill_all(self.run_dir)

    def order(self, **orders: object) -> None:
        """Replace the orders for the stand-in instances."""
        part = self.run_dir / "orders.part"
        part.write_text(json.dumps(orders))
        part.replace(self.run_dir / "orders.json")

    def plan(self, *orders: dict[str, object]) -> None:
        """Set the orders of each launch in turn."""
        (self.run_dir / "plan.json").write_text(json.dumps(orders))

    def guard(
        self,
        *arguments: str,
        prefix: tuple[str, ...] = (),
        program: Path = ROOT / "guardian.sh",
        **settings: object,
    ) -> subprocess.Popen[str]:
        """Start a guardian in its own session; its console is ``output``."""
        environment = {**self.environment, **{name: str(value) for name, value in settings.items()}}
        with self._output_path.open("ab") as output:
            guardian = subprocess.Popen(
                [*prefix, str(program), *arguments],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
        self.guardians.append(guardian)
        return guardian

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of guardian.sh to its end."""
        return subprocess.run(
            [ROOT / "guardian.sh", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )

    @property
    def _output_path(self) -> Path:
        return self.run_dir.with_name(self.run_dir.name + ".output")

    @property
    def output(self) -> str:
        return self._output_path.read_text() if self._output_path.exists() else ""

    def text(self, name: str) -> str:
        try:
            return (self.run_dir / name).read_text()
        except FileNotFoundError:  # not written yet, or being rotated
            return ""

    @property
    def restart_log(self) -> str:
        return self.text("restart.log")

    @property
    def launches(self) -> list[Launch]:
        return read_launches(self.run_dir)

    @property
    def instance(self) -> Launch:
        return self.launches[-1]

    def wait(self, what: str, happened: Callable[[], Any]) -> None:
        wait_for(what, happened, lambda: f"{self.output}\nlaunches: {self.launches}")

    def wait_launches(self, count: int) -> None:
        self.wait(f"launch {count}", lambda: len(self.launches) >= count)

    def wait_healthy(self, launches: int = 1) -> Launch:
        """Wait until the guardian has seen launch number ``launches`` healthy."""
        self.wait_launches(launches)
        instance = self.launches[launches - 1]
        self.wait("health", lambda: f"after its start: process {instance.pid}," in self.output)
        return instance

    def wait_checks(self, count: int = 8, path: str = "/guardian") -> None:
        """Wait for ``count`` more checks of ``path`` by the guardian."""
        asked = self.text("requests").splitlines().count(path)
        self.wait(f"{count} checks", lambda: self.text("requests").splitlines().count(path) >= asked + count)

    def wait_exit(self, guardian: subprocess.Popen[str]) -> int:
        try:
            return guardian.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the guardian does not exit:\n{self.output}") from None

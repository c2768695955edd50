"""A real instance under guardian.sh, or under the naive watchdog for comparison."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import ROOT
from lab.faults.watcher import fetch
from lab.instances.guarded import Guarded, wait_for

NAIVE = Path(__file__).resolve().parent / "naive.sh"
LAUNCHER = Path(__file__).resolve().parent / "inside.py"
HEALTHY_SECONDS = 480.0


class Service(Guarded):
    """Guarded with the product's default times. The instance runs under lab/faults/inside.py, except when
    ``plain``; ``prefix`` comes before the guardian's command line."""

    def __init__(
        self,
        run_dir: Path,
        *arguments: str,
        naive: bool = False,
        plain: bool = False,
        prefix: Sequence[str] = (),
        settings: Mapping[str, object] | None = None,
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *([] if plain else [str(LAUNCHER)])]
        interpreter = run_dir / "python"
        interpreter.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        interpreter.chmod(0o755)
        super().__init__(run_dir, interpreter, {}, **(settings or {}))
        self._arguments = arguments
        self._naive = naive
        self._prefix = tuple(prefix)

    def start(self) -> subprocess.Popen[str]:
        program = NAIVE if self._naive else ROOT / "guardian.sh"
        return self.guard("--", *self._arguments, program=program, prefix=self._prefix)

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def health(self) -> str:
        return f"http://127.0.0.1:{self.health_port}"

    @property
    def pid(self) -> int:
        """The PID in the PID file; 0 without one."""
        return int((self.text("web_app.pid").split() or ["0"])[0])

    @property
    def log(self) -> str:
        return self.text("web_app.log")

    @property
    def alerts(self) -> int:
        """Number of restarts by the watchdog."""
        return len(re.findall(r"\[ALERT\] CAUSE=\w+ (?:[A-Z]+=\S+ )*restart ", self.restart_log))

    def healthy(self) -> bool:
        return fetch(f"{self.health}/health/simple", 5)[0] == 200

    def wait_until_healthy(self, other_than: int = 0, seconds: float = HEALTHY_SECONDS) -> float:
        """Wait for a healthy instance with another PID than ``other_than``; return the monotonic time."""
        give_up = time.monotonic() + seconds
        while self.pid in (0, other_than) or not self.healthy():
            given_up = self.guardians[-1].poll() is not None or time.monotonic() > give_up
            assert not given_up, f"never healthy:\n{self.output}\n{self.log[-3000:]}"
            time.sleep(0.05)
        return time.monotonic()

    def wait_until_watched(self) -> None:
        """Wait until the guardian has seen it healthy; before, silence counts as a slow start."""
        wait_for("the guardian to see it", lambda: "] healthy " in self.output, lambda: self.output)

    def hold_port(self) -> subprocess.Popen[bytes]:
        """Kill the instance and take its health port before the next instance does."""
        code = (
            "import socket, sys, time\n"
            "while True:\n"
            "    try: s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); break\n"
            "    except OSError: time.sleep(0.001)\n"
            "print(flush=True); time.sleep(3600)\n"
        )
        holder = subprocess.Popen(
            [sys.executable, "-SEc", code, str(self.health_port)], stdout=subprocess.PIPE
        )
        os.kill(self.pid, signal.SIGKILL)
        assert holder.stdout is not None
        holder.stdout.readline()
        return holder

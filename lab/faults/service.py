"""A real instance under a real guardian, or under the naive watchdog it is compared with."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab import ROOT
from lab.faults.watcher import fetch
from lab.instances.guarded import Guarded, wait_for

NAIVE = Path(__file__).resolve().parent / "naive.sh"
LAUNCHER = Path(__file__).resolve().parent / "inside.py"
HEALTHY_SECONDS = 480.0


class Service(Guarded):
    """Guarded with the times of the product, not of the quick tests. The instance takes orders for faults
    (lab/faults/inside.py) unless it is ``plain``; ``prefix`` comes before the guardian's command line."""

    def __init__(
        self,
        run_dir: Path,
        *arguments: str,
        naive: bool = False,
        plain: bool = False,
        prefix: Sequence[str] = (),
        **settings: object,
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *([] if plain else [str(LAUNCHER)])]
        interpreter = run_dir / "python"
        interpreter.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
        interpreter.chmod(0o755)
        super().__init__(run_dir, interpreter, {}, **settings)
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
        """The instance that the PID file names; 0 when there is none."""
        return int((self.text("web_app.pid").split() or ["0"])[0])

    @property
    def log(self) -> str:
        return self.text("web_app.log")

    @property
    def alerts(self) -> int:
        """How often the watchdog has restarted the instance by itself."""
        return len(re.findall(r"\[ALERT\] CAUSE=\w+ (?:[A-Z]+=\S+ )*restart ", self.restart_log))

    def healthy(self) -> bool:
        return fetch(f"{self.health}/health/simple", 5)[0] == 200

    def wait_until_healthy(self, other_than: int = 0, seconds: float = HEALTHY_SECONDS) -> float:
        """Until an instance is healthy that is not ``other_than``; the time it was, monotonic."""
        give_up = time.monotonic() + seconds
        while self.pid in (0, other_than) or not self.healthy():
            given_up = self.guardians[-1].poll() is not None or time.monotonic() > give_up
            assert not given_up, f"never healthy:\n{self.output}\n{self.log[-3000:]}"
            time.sleep(0.05)
        return time.monotonic()

    def wait_until_watched(self) -> None:
        """Until the guardian has seen it healthy: from then on its silence is a hang and no slow start."""
        wait_for("the guardian to see it", lambda: "] healthy " in self.output, lambda: self.output)

    def hold_port(self) -> subprocess.Popen[bytes]:
        """Kills the instance and takes its health port before the next one can."""
        code = (
            "import socket, sys, time\n"
            "while True:\n"
            "    try: s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); break\n"
            "    except OSError: time.sleep(0.001)\n"
            "print(flush=True); time.sleep(3600)\n"
        )
        stranger = subprocess.Popen(
            [sys.executable, "-SEc", code, str(self.health_port)], stdout=subprocess.PIPE
        )
        os.kill(self.pid, signal.SIGKILL)
        assert stranger.stdout is not None
        stranger.stdout.readline()
        return stranger

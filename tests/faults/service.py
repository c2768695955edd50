"""A real instance under a real guardian, or under the naive watchdog it is compared with."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

from tests.guardian.harness import ROOT, Guarded

NAIVE = Path(__file__).resolve().parent / "naive.sh"
LAUNCHER = Path(__file__).resolve().parent / "launcher.py"
HEALTHY_SECONDS = 480.0


class Service(Guarded):
    """Guarded with the times of the product, not of the quick tests."""

    def __init__(self, run_dir: Path, model: str, *, naive: bool = False, **settings: object) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        interpreter = run_dir / "python"
        interpreter.write_text(
            f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {shlex.quote(str(LAUNCHER))} "$@"\n'
        )
        interpreter.chmod(0o755)
        super().__init__(run_dir, interpreter, {}, **settings)
        self._model = model
        self._naive = naive

    def start(self) -> subprocess.Popen[str]:
        program = NAIVE if self._naive else ROOT / "guardian.sh"
        return self.guard("--", "--model", self._model, program=program)

    @property
    def page(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The instance that the PID file names; 0 when there is none."""
        return int((self.text("web_app.pid").split() or ["0"])[0])

    @property
    def alerts(self) -> int:
        return self.restart_log.count("[ALERT] restart ")

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self.health_port}/health/simple", timeout=5
            ) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_until_healthy(self, other_than: int = 0) -> float:
        """Until an instance is healthy that is not ``other_than``; the time it was, monotonic."""
        give_up = time.monotonic() + HEALTHY_SECONDS
        while self.pid in (0, other_than) or not self.healthy():
            assert time.monotonic() < give_up, (
                f"never healthy:\n{self.output}\n{self.text('web_app.log')[-3000:]}"
            )
            time.sleep(0.05)
        return time.monotonic()

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

"""A killed test run leaves no process running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

RUN = """
import subprocess, sys, time
from lab.instances import reaper
reaper.watch()
child = subprocess.Popen([sys.executable, "-SEc", "import time; time.sleep(600)"], start_new_session=True)
print(child.pid, flush=True)
time.sleep(600)
"""
ROOT = Path(__file__).resolve().parent.parent


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_processes_of_a_killed_run_are_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", RUN], cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        child = int(run.stdout.readline())
        assert _runs(child)
        os.kill(run.pid, signal.SIGKILL)
    give_up = time.monotonic() + 60
    while _runs(child):
        assert time.monotonic() < give_up, "the child outlives the run"
        time.sleep(0.02)

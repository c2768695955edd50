"""Kill all processes that a run started when the run itself is killed.

Every process inherits a mark in its environment. A watcher process waits for the end of a pipe held by the
run, which closes however the run ends, and then kills all processes with the mark.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid

MARK = "TESTS_MARK"
_REAP = """
import os, pathlib, signal, sys, time
mark = sys.argv[1].encode()
sys.stdin.read()
for _ in range(100):  # until none is left, since one may be starting another
    left = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if int(folder.name) != os.getpid() and mark in (folder / "environ").read_bytes().split(b"\\0"):
                left.append(int(folder.name))
        except OSError:
            continue
    for pid in left:
        try:
            os.kill(pid, signal.SIGKILL)
        except OSError:
            pass
    if not left:
        break
    time.sleep(0.05)
"""


def watch() -> subprocess.Popen[bytes]:
    """Mark this process's environment and start the watcher. Keep a reference to the returned process."""
    mark = f"{MARK}={uuid.uuid4()}"
    os.environ[MARK] = mark.partition("=")[2]
    return subprocess.Popen(
        [sys.executable, "-SE", "-c", _REAP, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )

"""Ends what a run of tests started when the run itself was killed and could not.

Every process inherits the environment of the run, which bears a mark. A small process waits for the end of a
pipe that the run holds open, which ends however the run ends, and then kills whoever still bears the mark.
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
for _ in range(100):  # until none is left: one may be starting another while we look
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
    """Mark this process's environment and wait, in another process, for its end. Keep what is returned."""
    mark = f"{MARK}={uuid.uuid4()}"
    os.environ[MARK] = mark.partition("=")[2]
    return subprocess.Popen(
        [sys.executable, "-SE", "-c", _REAP, mark],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )

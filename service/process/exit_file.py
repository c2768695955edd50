"""The last things a process does: say how it ended, and end."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from service.health import resources
from service.telemetry import logs

EXIT_FILE: Final = "last_exit.json"
_log = logging.getLogger(__name__)


def write_exit(run_dir: Path, code: int, reason: str) -> None:
    """Say in ``last_exit.json`` how this process ended: a guardian that did not start it cannot ask.

    ``start_ticks`` is the start in clock ticks since boot, as in /proc/PID/stat. Failing is no reason not
    to end.
    """
    try:
        told = {
            "pid": os.getpid(),
            "start_ticks": resources.process_start_ticks(),
            "exit_unix": int(time.time()),
            "code": code,
            "reason": reason,
        }
        run_dir.mkdir(parents=True, exist_ok=True)  # used as a library, nobody has made it yet
        part = run_dir / f".{EXIT_FILE}.{os.getpid()}"
        part.write_text(json.dumps(told) + "\n", encoding="utf-8")
        part.replace(run_dir / EXIT_FILE)
    except Exception as error:
        _log.warning("EXIT_FILE | ERROR=%s", type(error).__name__)


def exit_now(code: int) -> NoReturn:
    """End the process at once, its log and its output flushed.

    The interpreter's own way out takes torch's libraries down one by one: seconds in which a guardian sees a
    process that answers nothing, or a crash instead of ``code`` where a thread is left in native code."""
    logs.flush()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)

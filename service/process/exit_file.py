"""Write the exit file and exit the process."""

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
    """Write exit code and reason to ``last_exit.json``, for a guardian that is not the parent.

    ``start_ticks`` is the start time in clock ticks since boot, as in /proc/PID/stat. Errors are logged.
    """
    try:
        content = {
            "pid": os.getpid(),
            "start_ticks": resources.process_start_ticks(),
            "exit_unix": int(time.time()),
            "code": code,
            "reason": reason,
        }
        run_dir.mkdir(parents=True, exist_ok=True)  # may not exist if used as a library
        part = run_dir / f".{EXIT_FILE}.{os.getpid()}"
        part.write_text(json.dumps(content) + "\n", encoding="utf-8")
        part.replace(run_dir / EXIT_FILE)
    except Exception as error:
        _log.warning("EXIT_FILE | ERROR=%s", type(error).__name__)


def exit_now(code: int) -> NoReturn:
    """Flush logs and output, then exit at once.

    A regular interpreter exit unloads torch's libraries: that takes seconds without health answers, or
    crashes instead of returning ``code`` if a thread is in native code."""
    logs.flush()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)

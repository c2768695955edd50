"""Diagnostics of a hung process: stacks, recent requests, figures. No user text.

A process whose other threads still run writes a post-mortem file. If a thread holds the GIL, no Python code
runs: then faulthandler's native thread, armed by ``StallDump`` and postponed every second, dumps all stacks
to ``stalled.txt``. Neither exits the process: the application does, or the guardian kills it.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

from service.contract.request import Request
from service.contract.status import Snapshot
from service.health.resources import Resources
from service.telemetry.request_log import Recent

KEPT: Final = 5
STALL_SECONDS: Final = 10.0
STALL_FILE: Final = "stalled.txt"
STALL_PART: Final = "stalled.part"  # written during a stall; appended to STALL_FILE afterwards
STALL_BYTES: Final = 1_048_576  # STALL_FILE is overwritten once it is larger
_log = logging.getLogger(__name__)


def write(run_dir: Path, reason: str, sections: Mapping[str, Iterable[str]]) -> Path | None:
    """Write ``sections`` (titles and lines) and all stacks to ``postmortem-<unix>-<pid>.txt``.

    Keeps the newest KEPT files. Returns None if the file cannot be written.
    """
    path = run_dir / f"postmortem-{int(time.time())}-{os.getpid()}.txt"
    try:
        with path.open("w", encoding="utf-8") as file:
            file.write(f"{reason}\nprocess {os.getpid()}, {time.strftime('%Y-%m-%d %H:%M:%S %z')}\n")
            for title, lines in {**sections, "THREADS": stacks()}.items():
                file.write(f"\n{title}\n")
                file.writelines(f"  {line}\n" for line in lines)
    except OSError as error:
        _log.error("POSTMORTEM | ERROR=%s", type(error).__name__)
        return None
    for old in sorted(run_dir.glob("postmortem-*.txt"))[:-KEPT]:
        with suppress(OSError):
            old.unlink()
    return path


def sections(
    stuck: Sequence[Request],
    snapshot: Snapshot,
    sample: Resources,
    recent: Sequence[Recent],
    versions: Mapping[str, str],
) -> dict[str, list[str]]:
    """The sections of a post-mortem, except the stacks."""
    now = time.monotonic()
    plain = ("phase", "model", "device", "dtype", "degraded", "reloads", "activity", "evidence")
    figures = ("memory", "memory_by", "process_memory", "threads", "gpu_name", "gpu", "disk", "cpu_seconds")
    return {
        "STUCK": [
            f"{r.id} {r.source}: {r.chars} chars, {now - r.arrived:.1f} s old{r.correlation}" for r in stuck
        ],
        "SERVICE": [f"{name}: {getattr(snapshot, name)}" for name in plain],
        "VERSIONS": [f"{name}: {found}" for name, found in versions.items()],
        "FIGURES": [f"{name}: {getattr(sample, name)}" for name in figures],
        "LAST REQUESTS": [str(one) for one in recent],
    }


def stacks() -> Iterable[str]:
    """The stack of every Python thread, innermost frame first: code locations without values."""
    threads = {thread.ident: thread for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        thread = threads.get(ident)
        kind = "" if thread is None or not thread.daemon else ", daemon"
        yield f"{thread.name if thread else 'no name'} (thread {ident}{kind})"
        # Without source lines, to avoid reading files.
        walk = traceback.walk_stack(frame)
        for place in traceback.StackSummary.extract(walk, limit=40, lookup_lines=False):
            yield f"    {place.filename}:{place.lineno} in {place.name}"


class StallDump:
    """Dumps all stacks natively if no Python thread has run for ``seconds``.

    faulthandler has one such timer per process, so only main arms it. Also writes the stacks of a native
    crash to standard error.
    """

    def __init__(self, run_dir: Path, seconds: float = STALL_SECONDS) -> None:
        self._path = run_dir / STALL_FILE
        self._part = run_dir / STALL_PART
        self._seconds = seconds
        self._ended = threading.Event()
        self._file: TextIO | None = None
        self._thread = threading.Thread(target=self._run, name="stall-dump", daemon=True)

    def start(self) -> None:
        with suppress(OSError, ValueError, RuntimeError):  # no standard error
            faulthandler.enable()
        try:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            self._publish()  # left by a process that was killed during a stall
            self._file = self._part.open("w", encoding="utf-8")
        except OSError as error:
            _log.warning("STALL_DUMP | ERROR=%s", type(error).__name__)
            return
        self._postpone()  # now, since the thread may start late
        self._thread.start()

    def stop(self) -> None:
        """Disarm the timer and remove STALL_PART."""
        self._ended.set()
        if self._file is None:
            return
        self._thread.join(2.0)
        faulthandler.cancel_dump_traceback_later()
        self._file.close()
        with suppress(OSError):
            self._publish()
            self._part.unlink()

    def _run(self) -> None:
        while not self._ended.wait(self._seconds / 10):
            self._postpone()
            with suppress(OSError):
                self._publish()

    def _publish(self) -> None:
        """Move a dump to the end of STALL_FILE, which exists only after a stall. Raises OSError."""
        if not self._part.exists() or not (size := self._part.stat().st_size):
            return
        full = self._path.exists() and self._path.stat().st_size > STALL_BYTES
        with self._part.open("r+b") as part, self._path.open("wb" if full else "ab") as kept:
            kept.write(part.read(size))
            part.truncate(0)
        if self._file is not None:
            os.lseek(self._file.fileno(), 0, os.SEEK_SET)

    def _postpone(self) -> None:
        assert self._file is not None
        faulthandler.dump_traceback_later(self._seconds, file=self._file)

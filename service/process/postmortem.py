"""What a hung process leaves behind for people: stacks, the last requests, figures. No user text.

Two ways to the stacks. A process whose other threads still run writes a post-mortem by itself. When one
thread keeps the interpreter's lock nothing written in Python runs any more; then a thread of the C library,
armed by ``StallDump`` and put off every second, writes the stacks of all threads for ``stalled.txt``.
Neither ends the process: in the first case the application does, in the other the guardian, whom it no
longer answers.
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
from service.telemetry.logs import Recent

KEPT: Final = 5
STALL_SECONDS: Final = 10.0
STALL_FILE: Final = "stalled.txt"
STALL_PART: Final = "stalled.part"  # written while it stands still; its content goes to the other afterwards
STALL_BYTES: Final = 1_048_576  # a longer file is begun anew; else each dump follows the last
_log = logging.getLogger(__name__)


def write(run_dir: Path, reason: str, sections: Mapping[str, Iterable[str]]) -> Path | None:
    """Write ``postmortem-<unix>-<pid>.txt`` and keep the newest few; None if that could not be done.

    ``sections`` are titles and lines. The stacks of all threads are added to them.
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
    """What a post-mortem tells beside the stacks."""
    now = time.monotonic()
    plain = ("phase", "model", "device", "dtype", "degraded", "reloads", "activity", "evidence")
    figures = ("memory", "memory_by", "process_memory", "threads", "gpu_name", "gpu", "disk", "cpu_seconds")
    return {
        "STUCK": [f"{r.id} {r.source}: {r.chars} chars, {now - r.arrived:.1f} s old" for r in stuck],
        "SERVICE": [f"{name}: {getattr(snapshot, name)}" for name in plain],
        "VERSIONS": [f"{name}: {found}" for name, found in versions.items()],
        "FIGURES": [f"{name}: {getattr(sample, name)}" for name in figures],
        "LAST REQUESTS": [str(one) for one in recent],
    }


def stacks() -> Iterable[str]:
    """The stack of every Python thread, innermost frame first: places in the code, none of the values."""
    threads = {thread.ident: thread for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        thread = threads.get(ident)
        kind = "" if thread is None or not thread.daemon else ", daemon"
        yield f"{thread.name if thread else 'no name'} (thread {ident}{kind})"
        # Without the source lines: reading files is no work for a process in trouble.
        walk = traceback.walk_stack(frame)
        for place in traceback.StackSummary.extract(walk, limit=40, lookup_lines=False):
            yield f"    {place.filename}:{place.lineno} in {place.name}"


class StallDump:
    """Puts off, as long as Python threads run, a dump of all stacks that needs no Python.

    There is one such dump in a process, so only a program's main function arms it. A crash in native code
    writes its stacks to standard error as well.
    """

    def __init__(self, run_dir: Path, seconds: float = STALL_SECONDS) -> None:
        self._path = run_dir / STALL_FILE
        self._part = run_dir / STALL_PART
        self._seconds = seconds
        self._ended = threading.Event()
        self._file: TextIO | None = None
        self._thread = threading.Thread(target=self._run, name="stall-dump", daemon=True)

    def start(self) -> None:
        with suppress(OSError, ValueError, RuntimeError):  # no console, nowhere to write a crash to
            faulthandler.enable()
        try:
            self._part.parent.mkdir(parents=True, exist_ok=True)
            self._publish()  # of a process that was killed while it stood still
            self._file = self._part.open("w", encoding="utf-8")
        except OSError as error:
            _log.warning("STALL_DUMP | ERROR=%s", type(error).__name__)
            return
        self._put_off()  # from here on, not from when the thread has its first turn
        self._thread.start()

    def stop(self) -> None:
        """Also removes the file that is written to."""
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
            self._put_off()
            with suppress(OSError):
                self._publish()

    def _publish(self) -> None:
        """Move what was dumped to the end of STALL_FILE, which exists only after a stall. Raises OSError."""
        if not self._part.exists() or not (size := self._part.stat().st_size):
            return
        full = self._path.exists() and self._path.stat().st_size > STALL_BYTES
        with self._part.open("r+b") as part, self._path.open("wb" if full else "ab") as kept:
            kept.write(part.read(size))
            part.truncate(0)
        if self._file is not None:
            os.lseek(self._file.fileno(), 0, os.SEEK_SET)

    def _put_off(self) -> None:
        assert self._file is not None
        faulthandler.dump_traceback_later(self._seconds, file=self._file)

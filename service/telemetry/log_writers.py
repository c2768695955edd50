"""Threads that write log lines, so that no caller waits for a disk or a terminal.

Each ``Writer`` has a bounded queue. A line is dropped and counted when the queue is full, because the disk or
the console is blocked, or when it cannot be written; the next written line is followed by ``LOG_GAP |
LOST=n``. The file is reopened, with a line that says so, when another program such as logrotate has moved or
deleted it.
"""

from __future__ import annotations

import errno
import io
import logging
import logging.handlers
import os
import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final, TextIO

QUEUED: Final = 10_000  # lines per writer
BLOCKED_SECONDS: Final = 10.0  # a write that takes longer counts as failing


class LogFile(logging.handlers.RotatingFileHandler):
    """A rotating file, reopened after a failure and when another program has moved or deleted it. ``emit``
    raises OSError."""

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        super().__init__(
            path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8", delay=True, errors="replace"
        )
        self.news = ""  # a message of ours for the file

    def open(self) -> None:
        """Open the file. Raises OSError."""
        if self.stream is None:
            self.stream = self._open()

    def emit(self, record: logging.LogRecord) -> None:
        if (gone := self._gone()) and self.stream is not None:
            stream, self.stream = self.stream, None
            stream.close()
            self.news = f"LOG_REOPENED | FILE={Path(self.baseFilename).name} | REASON={gone}"
        super().emit(record)

    def _gone(self) -> str:
        """Return how the open file was removed from its path, "" if it was not."""
        if self.stream is None:
            return ""
        ours = os.fstat(self.stream.fileno())
        try:
            there = os.stat(self.baseFilename)
        except (FileNotFoundError, NotADirectoryError):
            return "moved" if ours.st_nlink else "deleted"
        except OSError:  # unknown; the open file can still be written
            return ""
        return "" if os.path.samestat(ours, there) else "moved"

    def _open(self) -> io.TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        """Called by ``emit`` while it handles the error."""
        stream, self.stream = self.stream, None
        with suppress(OSError, ValueError):  # its buffer still holds the failed line
            if stream is not None:
                stream.close()
        raise  # the error that is being handled


class Console(logging.StreamHandler[TextIO]):
    """Standard error, which may be a closed terminal or a full pipe."""

    news = ""

    def handleError(self, record: logging.LogRecord) -> None:
        raise  # the error that is being handled


class Writer:
    """Writes lines to ``sink`` in a thread. ``line_of`` formats a message of ours as a line."""

    def __init__(self, name: str, sink: LogFile | Console, line_of: Callable[[str], str]) -> None:
        self._sink = sink
        self._line_of = line_of
        self._lines: queue.Queue[str | threading.Event | None] = queue.Queue(QUEUED)
        self._thread = threading.Thread(target=self._run, name=f"log-{name}", daemon=True)
        self._lock = threading.Lock()  # guards the counts
        self._unreported = 0
        self._failing = ""
        self._writing_since: float | None = None
        self.lost = 0

    def start(self) -> None:
        self._thread.start()

    def put(self, line: str) -> None:
        """Queue a line. Never blocks."""
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._missed()

    @property
    def failing(self) -> str:
        """Why lines cannot be written now: the name of an errno, or BLOCKED; "" while they can."""
        since = self._writing_since
        if since is not None and time.monotonic() - since > BLOCKED_SECONDS:
            return "BLOCKED"
        return self._failing

    def flush(self, seconds: float) -> None:
        """Wait up to ``seconds`` until all queued lines are written."""
        written = threading.Event()
        with suppress(queue.Full):
            self._lines.put(written, timeout=seconds)
            written.wait(seconds)

    def close(self, seconds: float) -> None:
        """Write all queued lines, end the thread and close the file, within ``seconds``."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=seconds)
            self._thread.join(seconds)
        if not self._thread.is_alive():
            with suppress(OSError, ValueError):
                self._sink.close()

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            if isinstance(line, threading.Event):
                line.set()
                continue
            self._writing_since = time.monotonic()
            self._write(line)
            self._writing_since = None

    def _write(self, line: str) -> None:
        try:
            self._emit(line)
        except (OSError, ValueError) as error:  # a full disk; a closed console
            self._failing = errno.errorcode.get(getattr(error, "errno", None) or 0, type(error).__name__)
            self._missed()
            return
        self._failing = ""
        with suppress(OSError, ValueError):  # retried after the next line
            self._report()

    def _report(self) -> None:
        if self._sink.news:
            self._emit(self._line_of(self._sink.news))
            self._sink.news = ""
        if missing := self._unreported:
            self._emit(self._line_of(f"LOG_GAP | LOST={missing}"))
            with self._lock:
                self._unreported -= missing

    def _emit(self, line: str) -> None:
        self._sink.emit(logging.LogRecord("", logging.INFO, "", 0, line, None, None))

    def _missed(self) -> None:
        with self._lock:
            self.lost += 1
            self._unreported += 1

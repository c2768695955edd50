"""The log files web_app.log and slow_requests.log, and the console.

Logging never blocks or stops the service (log_writers.py). User text is never written: messages are ours, of
tracebacks only file names and line numbers are kept, and of library messages only logger, place and error
class.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, TextIO

from service.contract.errors import SettingsError
from service.contract.log_line import fields, split
from service.contract.times import STOP_LOGS
from service.settings import Settings
from service.telemetry.log_writers import Console, LogFile, Writer

LOGGERS: Final = ("service", "web_app", "health_api", "page", "api", "batch", "cluster", "ofa", "doctor")
LOG_FILE: Final = "web_app.log"
SLOW_FILE: Final = "slow_requests.log"
SLOW_LOGGER: Final = "slow_requests"
REPEATED: Final = 60.0  # seconds in which equal lines of a library are written once
KINDS: Final = 200  # of library lines that are remembered
_log = logging.getLogger(__name__)


class LineFormatter(logging.Formatter):
    """``2026-11-22 17:30:00 | INFO     | message``, or with ``form`` "json" an object with ``time``,
    ``level`` and the parts of the message: one line always, CRITICAL written as FATAL."""

    def __init__(self, form: str = "text") -> None:
        super().__init__(datefmt="%Y-%m-%d %H:%M:%S")
        self._json = form == "json"

    def format(self, record: logging.LogRecord) -> str:
        level = "FATAL" if record.levelno >= logging.CRITICAL else record.levelname
        where = f" | WHERE={places(record.exc_info[1])}" if record.exc_info and record.exc_info[1] else ""
        message = one_line(record.getMessage() + where)
        if not self._json:
            return f"{self.formatTime(record, self.datefmt)} | {level:<8} | {message}"
        at = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="seconds")
        return json.dumps({"time": at, "level": level, **split(message)}, ensure_ascii=False)


class TabFormatter(logging.Formatter):
    """Keeps the tabs of a message, which separate its columns."""

    def format(self, record: logging.LogRecord) -> str:
        return "\t".join(one_line(column) for column in record.getMessage().split("\t"))


def one_line(text: str) -> str:
    """Replace everything that could start a new line or move a terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in text)


def places(error: BaseException) -> str:
    """Return the innermost frames of ``error`` as file:line. Its message may quote input and is left out."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))


class _ToWriters(logging.Handler):
    """Formats a record in the caller's thread and queues the line for the writers."""

    def __init__(self, formatter: logging.Formatter, *writers: Writer) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._writers = writers

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # arguments do not fit the message
            line = f"UNPRINTABLE | ERROR={type(error).__name__} | LOGGER={record.name}"
        for writer in self._writers:
            writer.put(line)


class _Libraries(_ToWriters):
    """Writes ``LIBRARY | LOGGER=…`` for a library's record, whose message may quote input.

    Equal lines are written once in REPEATED seconds, so that clients cannot fill the log.
    """

    def __init__(self, formatter: logging.Formatter, *writers: Writer) -> None:
        super().__init__(formatter, *writers)
        self._seen: dict[tuple[str, int, str | None], tuple[float, int]] = {}

    def emit(self, record: logging.LogRecord) -> None:
        error = type(record.exc_info[1]).__name__ if record.exc_info and record.exc_info[1] else None
        kind, now = (record.name, record.levelno, error), time.monotonic()
        since, left_out = self._seen.get(kind, (-math.inf, 0))
        if now - since < REPEATED:
            self._seen[kind] = since, left_out + 1
            return
        if len(self._seen) >= KINDS:
            self._seen.clear()
        self._seen[kind] = now, 0
        place = f"{record.filename}:{record.lineno}"
        more = fields(logger=record.name, at=place, error=error, left_out=left_out or None)
        ours = logging.LogRecord(
            "service.telemetry.logs", record.levelno, "", 0, f"LIBRARY{more}", None, record.exc_info
        )
        super().emit(ours)


class Logs:
    """The log files and the console of one process. ``level`` applies to our own loggers; of libraries,
    warnings and errors are written. ``form`` is "text" or "json"."""

    def __init__(
        self,
        run_dir: Path,
        *,
        max_bytes: int,
        backups: int,
        level: str = "INFO",
        form: str = "text",
        console: TextIO | None = None,
    ) -> None:
        lines, columns = LineFormatter(form), TabFormatter()
        self._level = level.upper()
        self._run_dir = run_dir
        self._log_file = LogFile(run_dir / LOG_FILE, max_bytes, backups)
        slow_file = LogFile(run_dir / SLOW_FILE, max_bytes, backups)
        self._file = Writer("file", self._log_file, _line_of(lines))
        self._slow = Writer("slow", slow_file, _line_of(columns))
        self._console = Writer(
            "console", Console(console if console is not None else sys.stderr), _line_of(lines)
        )
        ours = _ToWriters(lines, self._file, self._console)
        self._handlers: dict[str | None, logging.Handler] = {
            **dict.fromkeys(LOGGERS, ours),
            SLOW_LOGGER: _ToWriters(columns, self._slow),
            None: _Libraries(lines, self._file, self._console),  # the root logger
        }
        self._thread_hook = threading.excepthook

    @classmethod
    def of(cls, settings: Settings) -> Logs:
        """The logs in the settings' run directory."""
        return cls(
            settings.run_dir,
            max_bytes=settings.log_max_bytes,
            backups=settings.log_backups,
            level=settings.log_level,
            form=settings.log_format,
        )

    def open(self, *, must_write: bool = False) -> None:
        """Start logging. With ``must_write``, raises SettingsError if this user may not write to the run
        directory; a full disk never stops the service."""
        try:
            self._log_file.open()
        except OSError as error:
            if must_write and (refusal := unwritable(self._run_dir, error)) is not None:
                raise refusal from error
        for writer in self._writers:
            writer.start()
        _open_files.update((self._file, self._slow))
        _open_writers.update(self._writers)
        for name, handler in self._handlers.items():
            logger = logging.getLogger(name)
            if name is not None:
                logger.setLevel(logging.INFO if name == SLOW_LOGGER else self._level)
                logger.propagate = False
            logger.addHandler(handler)
        threading.excepthook = _thread_died
        _log.info("STARTED | PID=%d", os.getpid())

    def flush(self, seconds: float = STOP_LOGS) -> None:
        """Wait up to ``seconds`` until all lines are written."""
        _each(self._writers, seconds, Writer.flush)

    def close(self) -> None:
        """Write the remaining lines within STOP_LOGS and stop logging."""
        threading.excepthook = self._thread_hook
        for name, handler in self._handlers.items():
            logger = logging.getLogger(name)
            logger.removeHandler(handler)
            if name is not None:
                logger.propagate = True
        _each(self._writers, STOP_LOGS, Writer.close)
        _open_files.difference_update(self._writers)
        _open_writers.difference_update(self._writers)

    @property
    def _writers(self) -> tuple[Writer, ...]:
        return self._file, self._slow, self._console


#: The open writers of this process, for health and for an abrupt exit.
_open_files: Final[set[Writer]] = set()
_open_writers: Final[set[Writer]] = set()


def unwritable(run_dir: Path, error: OSError) -> SettingsError | None:
    """Return the refusal to start when this user may not write here; None for an error that may pass."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
        return None
    return SettingsError(
        f"The run directory {run_dir} cannot be written: {error.strerror}.",
        remedy="Make it writable for this user, or pass another with --run-dir (OFA_RUN_DIR).",
        code="run_dir_unwritable",
    )


def lost_lines() -> int:
    """Return how many lines could not be written to the open files."""
    return sum(writer.lost for writer in list(_open_files))


def failing() -> str | None:
    """Return why the open files cannot be written now: the name of an errno, BLOCKED, or None."""
    return next((writer.failing for writer in list(_open_files) if writer.failing), None)


def flush() -> None:
    """Write all queued lines of this process within STOP_LOGS."""
    _each(list(_open_writers), STOP_LOGS, Writer.flush)


def _each(writers: Sequence[Writer], seconds: float, act: Callable[[Writer, float], None]) -> None:
    """Call ``act`` for each within ``seconds`` together."""
    end = time.monotonic() + seconds
    for writer in writers:
        act(writer, max(0.0, end - time.monotonic()))


def _line_of(formatter: logging.Formatter) -> Callable[[str], str]:
    def line(message: str) -> str:
        return formatter.format(
            logging.LogRecord("service.telemetry.logs", logging.WARNING, "", 0, message, None, None)
        )

    return line


def _thread_died(args: threading.ExceptHookArgs) -> None:
    """Log a thread's death. Python would print the error's text, which may quote input."""
    name = args.thread.name if args.thread is not None else "?"
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        info = (args.exc_type, args.exc_value, args.exc_traceback)
        _log.critical(
            "BROKEN | MSG=a thread died | THREAD=%s | ERROR=%s", name, args.exc_type.__name__, exc_info=info
        )

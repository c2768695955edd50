"""web_app.log, slow_requests.log and the console, and what is written there.

Nothing that happens while writing a log stops or holds up the service (log_writers.py). User text is
never written: not in messages, which are ours, not in tracebacks, of which only the places are kept, and not
in what libraries log, of whom only the logger, the place and the error's class are.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, TextIO

from service.contract.errors import SettingsError
from service.contract.log_line import fields
from service.contract.times import STOP_LOGS
from service.telemetry.log_writers import Console, LogFile, Writer

LOGGERS: Final = ("service", "web_app", "health_api", "page", "ofa", "doctor")
LOG_FILE: Final = "web_app.log"
SLOW_FILE: Final = "slow_requests.log"
SLOW_LOGGER: Final = "slow_requests"
REPEATED: Final = 60.0  # seconds in which a library's like lines are written once
KINDS: Final = 200  # of lines of libraries that are told apart
_log = logging.getLogger(__name__)


class LineFormatter(logging.Formatter):
    """``2026-11-22 17:30:00 | INFO     | message``; always one line, CRITICAL written as FATAL."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s | %(word)-8s | %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        record.word = "FATAL" if record.levelno >= logging.CRITICAL else record.levelname
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        where = f" | WHERE={places(record.exc_info[1])}" if record.exc_info and record.exc_info[1] else ""
        return one_line(self.formatMessage(record) + where)


class TabFormatter(logging.Formatter):
    """A message of columns, as it is: its tabs are ours."""

    def format(self, record: logging.LogRecord) -> str:
        return "\t".join(one_line(column) for column in record.getMessage().split("\t"))


def one_line(text: str) -> str:
    """``text`` without anything that could begin a new line or move a terminal's cursor."""
    return "".join(char if char.isprintable() else " " for char in text)


def places(error: BaseException) -> str:
    """Where an error came from, innermost last, without its message: that may quote input."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))


class _ToWriters(logging.Handler):
    """Makes a line of a record in the caller's thread, and hands it to threads that write."""

    def __init__(self, formatter: logging.Formatter, *writers: Writer) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self._writers = writers

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception as error:  # arguments that do not fit their message
            line = f"UNPRINTABLE | ERROR={type(error).__name__} | LOGGER={record.name}"
        for writer in self._writers:
            writer.put(line)


class _Libraries(_ToWriters):
    """What libraries log, without their messages, which may quote input: ``LIBRARY | LOGGER=…``.

    The same of one logger is written once in REPEATED seconds; what others send us must not fill the log.
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
        told = fields(logger=record.name, at=place, error=error, left_out=left_out or None)
        ours = logging.LogRecord(
            "service.telemetry.logs", record.levelno, "", 0, f"LIBRARY{told}", None, record.exc_info
        )
        super().emit(ours)


class Logs:
    """The log files and the console of one process: ``open`` before the first line, ``close`` after the last.
    ``level`` is that of our own loggers; of libraries we write warnings and worse."""

    def __init__(
        self,
        run_dir: Path,
        *,
        max_bytes: int,
        backups: int,
        level: str = "INFO",
        console: TextIO | None = None,
    ) -> None:
        lines, columns = LineFormatter(), TabFormatter()
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
            None: _Libraries(lines, self._file, self._console),  # the root, where libraries' lines arrive
        }
        self._thread_hook = threading.excepthook

    def open(self, *, must_write: bool = False) -> None:
        """Begin to write. Raises SettingsError with ``must_write`` if the run directory is not writable for
        this user at all; a full disk is no reason not to serve."""
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
        """Wait until everything so far is written, ``seconds`` at most."""
        _each(self._writers, seconds, Writer.flush)

    def close(self) -> None:
        """Write what is left, within STOP_LOGS."""
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


#: What is open in this process: for health, and for an end that nobody announces.
_open_files: Final[set[Writer]] = set()
_open_writers: Final[set[Writer]] = set()


def unwritable(run_dir: Path, error: OSError) -> SettingsError | None:
    """The refusal to start where this user may not write; None for an error that may pass, as a full disk."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
        return None
    return SettingsError(
        f"The run directory {run_dir} cannot be written: {error.strerror}.",
        remedy="Give this user the right to, or set another with --run-dir (OFA_RUN_DIR).",
        code="run_dir_unwritable",
    )


def lost_lines() -> int:
    """Lines that could not be written to this process's files since they were opened."""
    return sum(writer.lost for writer in list(_open_files))


def failing() -> str | None:
    """Why lines cannot be written to this process's files now: the name of an errno, or BLOCKED."""
    return next((writer.failing for writer in list(_open_files) if writer.failing), None)


def flush() -> None:
    """Write what is on its way in this process, within STOP_LOGS."""
    _each(list(_open_writers), STOP_LOGS, Writer.flush)


def _each(writers: Sequence[Writer], seconds: float, act: Callable[[Writer, float], None]) -> None:
    """Do it to all of them in ``seconds`` at most."""
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
    """Python would print the error's own text, which may quote input."""
    name = args.thread.name if args.thread is not None else "?"
    if args.exc_value is not None and not isinstance(args.exc_value, SystemExit):
        info = (args.exc_type, args.exc_value, args.exc_traceback)
        _log.critical(
            "BROKEN | MSG=a thread died | THREAD=%s | ERROR=%s", name, args.exc_type.__name__, exc_info=info
        )

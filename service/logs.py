"""web_app.log, slow_requests.log and the console. Nothing that happens while writing a log stops the service.

A line that cannot be written (disk full, folder gone, console closed) is dropped and counted; the next one
is tried anew, and the first that succeeds is followed by a line that says how many are missing. User text is
never written: not in messages, which are ours, and not in tracebacks, of which only the places are kept.
"""

from __future__ import annotations

import io
import logging
import logging.handlers
import sys
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TextIO

from service.errors import ServiceError
from service.observer import UNOBSERVED, Observer, Stage
from service.request import Course, Request, Verdict

LOGGERS: Final = ("service", "web_app", "health_api", "page", "ofa")
LOG_FILE: Final = "web_app.log"
SLOW_FILE: Final = "slow_requests.log"
_log = logging.getLogger(__name__)
_slow = logging.getLogger("slow_requests")


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


class _Careful:
    """The part both handlers share: a failed line is counted, not raised, and told of when writing works."""

    lost: int = 0
    _untold: int = 0

    def _missed(self) -> None:
        self.lost += 1
        self._untold += 1

    def _gap(self) -> logging.LogRecord | None:
        if not self._untold:
            return None
        missing, self._untold = self._untold, 0
        return logging.LogRecord(
            "service.logs", logging.WARNING, "", 0, "LOG_GAP | LOST=%d", (missing,), None
        )


class CarefulFile(_Careful, logging.handlers.RotatingFileHandler):
    """A rotated file that survives a full disk. After a failure it is opened anew for the next line."""

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        super().__init__(path, maxBytes=max_bytes, backupCount=backups, encoding="utf-8", delay=True)

    def emit(self, record: logging.LogRecord) -> None:
        before = self.lost
        super().emit(record)
        if self.lost == before and (gap := self._gap()) is not None:
            super().emit(gap)

    def _open(self) -> io.TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:
        self._missed()
        stream, self.stream = self.stream, None
        try:
            if stream is not None:
                stream.close()
        except (OSError, ValueError):
            pass  # it still holds the line that did not fit


class CarefulConsole(_Careful, logging.StreamHandler[TextIO]):
    """Standard error, which may be a closed terminal or a file on a full disk."""

    def handleError(self, record: logging.LogRecord) -> None:
        self._missed()


class Logs:
    """The handlers of one process: ``open`` before the first line, ``close`` after the last."""

    def __init__(self, run_dir: Path, *, max_bytes: int, backups: int, console: TextIO | None = None) -> None:
        self._file = CarefulFile(run_dir / LOG_FILE, max_bytes, backups)
        self._slow = CarefulFile(run_dir / SLOW_FILE, max_bytes, backups)
        self._console = CarefulConsole(console if console is not None else sys.stderr)
        self._file.setFormatter(LineFormatter())
        self._console.setFormatter(LineFormatter())
        self._slow.setFormatter(TabFormatter())

    def open(self) -> None:
        for name in LOGGERS:
            self._attach(logging.getLogger(name), self._file, self._console)
        self._attach(_slow, self._slow)

    def _attach(self, logger: logging.Logger, *handlers: logging.Handler) -> None:
        logger.setLevel(logging.INFO)
        logger.propagate = False
        for handler in handlers:
            logger.addHandler(handler)

    def close(self) -> None:
        for name in (*LOGGERS, _slow.name):
            logger = logging.getLogger(name)
            logger.propagate = True
            for handler in (self._file, self._slow, self._console):
                logger.removeHandler(handler)
        for file in (self._file, self._slow):
            try:
                file.close()
            except (OSError, ValueError):
                file._missed()

    @property
    def lost(self) -> int:
        """Lines that could not be written to the files since the start."""
        return self._file.lost + self._slow.lost


def lost_lines() -> int:
    """The same for whatever files are open in this process: for health, which is not told of them."""
    handlers = {*logging.getLogger(LOGGERS[0]).handlers, *_slow.handlers}
    return sum(handler.lost for handler in handlers if isinstance(handler, CarefulFile))


def fields(**values: object) -> str:
    """``KEY=value | KEY=value`` for the values that are not None."""
    return "".join(f" | {key.upper()}={value}" for key, value in values.items() if value is not None)


@dataclass(frozen=True, slots=True)
class Recent:
    """What a post-mortem may tell of a request: nothing of its text."""

    unix: int
    id: str
    source: str
    chars: int
    size: tuple[int, int]
    outcome: str
    seconds: float

    def __str__(self) -> str:
        width, height = self.size
        return (
            f"{self.unix} {self.id} {self.source}: {self.chars} chars, {width}x{height}, "
            f"{self.outcome} after {self.seconds:.2f} s"
        )


class RequestLog:
    """The engine's journal, in the line formats that scripts read. Its methods never raise. What it writes
    down it tells ``observer``, too."""

    def __init__(self, keep: int = 30, observer: Observer = UNOBSERVED) -> None:
        self._recent: deque[Recent] = deque(maxlen=keep)
        self._observer = observer

    @property
    def recent(self) -> list[Recent]:
        """The requests that ended last, oldest first."""
        return list(self._recent)

    def started(self, request: Request, removed: Mapping[str, int]) -> None:
        """Accepted for judging; ``removed`` as counted by service.text."""
        hypothesis, premise = request.pair.hypothesis, request.pair.premise
        more = fields(
            premise_len=None if premise is None else len(premise),
            removed=",".join(f"{kind}:{count}" for kind, count in sorted(removed.items())) or None,
            source=request.source,
        )
        head = f"REQUEST_START | {request.id} | TEXT_LEN={len(hypothesis)} | IMG_SIZE={request.size}"
        _log.log(_level(request), "%s", head + more)

    def refused(self, request: Request, error: ServiceError, seconds: float) -> None:
        """Not accepted: the input cannot be judged, or there is no room or no model."""
        self._observer.refused(request, error, seconds)
        told = fields(reason=error.code, source=request.source)
        _log.info("%s", _error_line(request.id, error, seconds) + told)

    def batched(self, requests: Sequence[Request]) -> None:
        self._observer.batched(requests)

    def ended(self, request: Request, verdict: Verdict, course: Course) -> None:
        self._remember(request, verdict, course)
        if verdict.reason is None:
            head = f"REQUEST_END | {request.id} | LABEL={verdict.label} | SCORE={verdict.score:.3f}"
            more = fields(
                duration=f"{verdict.duration:.2f}s", device=verdict.device or None, source=request.source
            )
            _log.log(_level(request), "%s", head + more + _course(request, course))
        else:
            self._failed(request, verdict, course)

    def timed_out(self, request: Request, verdict: Verdict, course: Course, computing: bool) -> None:
        stage: Stage = "computing" if computing else "waiting"
        self._remember(request, verdict, course)
        self._failed(request, verdict, course, stage=stage)
        self.slow(request, stage, verdict.duration)

    def slow(self, request: Request, stage: Stage, seconds: float) -> None:
        """A line in slow_requests.log; ``stage`` is where its time ran out, and the size the picture's as
        sent, which nobody knows yet when that was in decoding."""
        self._observer.timed_out(request, stage)
        width, height = request.size
        size = f"{width}x{height}" if width else "-"
        columns = (
            f"{int(time.time())}\tTIMEOUT\t{request.chars} chars",
            request.id,
            stage,
            f"{seconds:.2f}s",
            size,
            request.source,
        )
        _slow.warning("%s", "\t".join(columns))

    def late(self, request: Request, outcome: str, seconds: float) -> None:
        _log.info("REQUEST_LATE | %s | OUTCOME=%s | AFTER=%.2fs", request.id, outcome, seconds)

    def orphaned(self, requests: Sequence[Request], seconds: float) -> None:
        self._observer.orphaned()
        _log.error("ORPHANED | %s | RUNNING=%.2fs", _ids(requests), seconds)

    def hung(self, requests: Sequence[Request], seconds: float) -> None:
        _log.critical("HUNG | %s | RUNNING=%.2fs", _ids(requests), seconds)

    def broken(self, what: str, error: BaseException) -> None:
        info = (type(error), error, error.__traceback__)
        _log.error("BROKEN | MSG=%s | ERROR=%s", what, type(error).__name__, exc_info=info)

    def _remember(self, request: Request, verdict: Verdict, course: Course) -> None:
        outcome = verdict.reason or "answered"
        self._recent.append(
            Recent(
                *(int(time.time()), request.id, request.source, request.chars, request.size),
                outcome,
                verdict.duration,
            )
        )
        self._observer.ended(request, verdict, course)

    def _failed(self, request: Request, verdict: Verdict, course: Course, **more: object) -> None:
        error = verdict.error or ServiceError("No verdict.", code=verdict.code)
        line = _error_line(request.id, error, verdict.duration)
        told = fields(reason=verdict.code, **more, source=request.source)
        _log.warning("%s", line + told + _course(request, course))


def _error_line(request_id: str, error: ServiceError, seconds: float) -> str:
    """MSG is the first 100 characters of our own message; a foreign cause is told by its class alone."""
    cause = error.__cause__
    told = fields(error=type(error).__name__, msg=error.message[:100], duration=f"{seconds:.2f}s")
    return f"REQUEST_ERROR | {request_id}{told}" + fields(cause=type(cause).__name__ if cause else None)


def _course(request: Request, course: Course) -> str:
    """Where the time went: what tells a crowd from a slow model, and a slow model from a large picture."""
    computed = None if course.computed is None else f"{course.computed:.2f}s"
    return fields(
        prepared=f"{request.prepared:.2f}s",
        ahead=course.ahead,
        waited=f"{course.waited:.2f}s",
        computed=computed,
        batch=course.batch or None,
    )


def _level(request: Request) -> int:
    """A probe a minute would drown the users' lines; only its failures are written."""
    return logging.DEBUG if request.source == "probe" else logging.INFO


def _ids(requests: Sequence[Request]) -> str:
    return ",".join(request.id for request in requests)

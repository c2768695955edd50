"""The lines of web_app.log and slow_requests.log that tell of requests, in the forms that scripts read."""

from __future__ import annotations

import functools
import logging
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from service.api_keys import name_of
from service.contract.errors import DeadlineExceeded, InferenceError, ServiceError
from service.contract.events import Listener, Stage
from service.contract.log_line import fields
from service.contract.request import Request, RequestTiming, Verdict
from service.http.log_limit import LogLimit
from service.telemetry.logs import SLOW_LOGGER

RECENT: Final = 30
LOG_SECONDS: Final = 3.0  # between two lines about background rows, or about equal bugs
_log = logging.getLogger(__name__)
_slow = logging.getLogger(SLOW_LOGGER)


@dataclass(frozen=True, slots=True)
class Recent:
    """A request as a post-mortem lists it: nothing of its texts."""

    unix: int
    id: str
    source: str
    chars: int
    size: tuple[int, int]
    outcome: str
    seconds: float
    correlation: str = ""

    def __str__(self) -> str:
        width, height = self.size
        return (
            f"{self.unix} {self.id} {self.source}: {self.chars} chars, {width}x{height}, "
            f"{self.outcome} after {self.seconds:.2f} s{self.correlation}"
        )


class RequestLog(Listener):
    """Writes a line for each event of a request, and remembers the last RECENT requests.

    Of background rows it writes failures of the service only, one line in LOG_SECONDS.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._recent: deque[Recent] = deque(maxlen=RECENT)
        limit = functools.partial(LogLimit, LOG_SECONDS, clock=clock)
        self._rows = limit()
        self._bugs: defaultdict[str, LogLimit] = defaultdict(limit)  # by what was met

    @property
    def recent(self) -> list[Recent]:
        """The requests that ended last, oldest first."""
        return list(self._recent)

    def started(self, request: Request, removed: Mapping[str, int]) -> None:
        if request.source == "batch":
            return
        hypothesis, premise = request.pair.hypothesis, request.pair.premise
        more = fields(
            premise_len=None if premise is None else len(premise),
            removed=",".join(f"{kind}:{count}" for kind, count in sorted(removed.items())) or None,
            source=request.source,
            key=name_of(request.caller),
        )
        head = f"REQUEST_START | {request.id} | TEXT_LEN={len(hypothesis)} | IMG_SIZE={request.size}"
        _log.log(_level(request), "%s", head + more + request.correlation)

    def refused(self, request: Request, error: ServiceError, seconds: float) -> None:
        stage: Stage | None = "decoding" if isinstance(error, DeadlineExceeded) else None
        failed = stage is not None or isinstance(error, InferenceError)
        line = _error_line(request.id, error, seconds)
        key = name_of(request.caller)
        more = fields(reason=error.code, stage=stage, source=request.source, key=key)
        level = logging.WARNING if failed else _level(request)
        self._write_error(level, request, error, line + more, stage, seconds)

    def ended(
        self, request: Request, verdict: Verdict, timing: RequestTiming, stage: Stage | None = None
    ) -> None:
        self._recent.append(
            Recent(
                *(int(time.time()), request.id, request.source, request.chars, request.size),
                verdict.reason or "answered",
                verdict.duration,
                request.correlation,
            )
        )
        if verdict.reason is None:
            if request.source == "batch":
                return
            head = f"REQUEST_END | {request.id} | LABEL={verdict.label} | SCORE={verdict.score:.3f}"
            more = fields(
                duration=f"{verdict.duration:.2f}s", device=verdict.device or None, source=request.source
            )
            _log.log(_level(request), "%s", head + more + _timing(request, timing) + request.correlation)
            return
        error = verdict.error or ServiceError("No verdict.", code=verdict.code)
        line = _error_line(request.id, error, verdict.duration)
        more = fields(reason=verdict.code, stage=stage, source=request.source) + _timing(request, timing)
        self._write_error(logging.WARNING, request, error, line + more, stage, verdict.duration)

    def _write_error(
        self,
        level: int,
        request: Request,
        error: ServiceError,
        line: str,
        stage: Stage | None,
        seconds: float,
    ) -> None:
        if request.source == "batch":
            failed = isinstance(error, DeadlineExceeded | InferenceError)
            if not failed or (more := self._rows.admit()) is None:
                return
            line += fields(more=more or None)
        _log.log(level, "%s", line + request.correlation)
        if stage is not None:
            _write_slow(request, stage, seconds)

    def late(self, request: Request, outcome: str, seconds: float) -> None:
        if request.source == "batch":
            return
        _log.info("REQUEST_LATE | %s | OUTCOME=%s | AFTER=%.2fs", request.id, outcome, seconds)

    def not_cancelling(self, requests: Sequence[Request], seconds: float) -> None:
        _log.error("ORPHANED | %s | RUNNING=%.2fs", _ids(requests), seconds)

    def hung(self, requests: Sequence[Request], seconds: float) -> None:
        _log.critical("HUNG | %s | RUNNING=%.2fs", _ids(requests), seconds)

    def broken(self, what: str, error: BaseException) -> None:
        if (more := self._bugs[what].admit()) is None:
            return
        info, line = (type(error), error, error.__traceback__), fields(msg=what, error=type(error).__name__)
        _log.error("%s", "BROKEN" + line + fields(more=more or None), exc_info=info)


def _write_slow(request: Request, stage: Stage, seconds: float) -> None:
    """Write a line of slow_requests.log. The size is that of the picture as sent, "-" before it is known."""
    width, height = request.size
    columns = (
        f"{int(time.time())}\tTIMEOUT\t{request.chars} chars",
        request.id,
        stage,
        f"{seconds:.2f}s",
        f"{width}x{height}" if width else "-",
        request.source,
    )
    _slow.warning("%s", "\t".join(columns))


def _error_line(request_id: str, error: ServiceError, seconds: float) -> str:
    """MSG is our own message, cut at 100 characters; of a foreign cause only the class is logged."""
    cause = error.__cause__
    more = fields(error=type(error).__name__, msg=error.message[:100], duration=f"{seconds:.2f}s")
    return f"REQUEST_ERROR | {request_id}{more}" + fields(cause=type(cause).__name__ if cause else None)


def _timing(request: Request, timing: RequestTiming) -> str:
    """Tell a full queue from a slow model, and a slow model from a large picture."""
    return fields(
        prepared=f"{request.prepared:.2f}s",
        ahead=timing.ahead,
        waited=f"{timing.waited:.2f}s",
        computed=None if timing.computed is None else f"{timing.computed:.2f}s",
        batch=timing.batch or None,
    )


def _level(request: Request) -> int:
    """Of probes, one a minute, only the failures are logged; the prober logs those that are refused."""
    return logging.DEBUG if request.source == "probe" else logging.INFO


def _ids(requests: Sequence[Request]) -> str:
    return ",".join(request.id for request in requests)

"""Reads the logs of a run folder as records: lines with time and event, requests, process statistics.

The newest part of each log is read, rotated files included. web_app.log may have lines of both log formats. A
line that cannot be parsed is skipped; a file that cannot be read is listed. Times are seconds of the local
wall clock as in the logs: use differences only.
"""

from __future__ import annotations

import calendar
import gzip
import json
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

from service.contract.log_line import join

MOST_BYTES: Final = 24 << 20  # per log: weeks of a service
LOADING_SECONDS: Final = 60.0  # a process up for longer has loaded its model, unless the log says otherwise
APP_LOG: Final = "web_app.log"
SLOW_LOG: Final = "slow_requests.log"
RESTART_LOG: Final = "restart.log"
CONSOLE_LOG: Final = "console.log"
_APP_LINE: Final = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d):(\d\d):(\d\d) \| ([A-Z]+) *\| (.*)")
_JSON_TIME: Final = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)[+-]\d\d:\d\d")
_RESTART_LINE: Final = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d):(\d\d):(\d\d) \[([A-Z]+)\] (.*)")
_CAUSE: Final = re.compile(r"CAUSE=([a-z_]+) ")
_ROTATED: Final = re.compile(r"([.-])(\d{1,14})(\.gz)?")
_SIZE: Final = re.compile(r"\((\d+), (\d+)\)")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log, ``EVENT | KEY=value | …`` in web_app.log."""

    file: str
    number: int
    at: float
    level: str
    message: str

    @property
    def event(self) -> str:
        return self.message.partition(" | ")[0]

    @property
    def fields(self) -> Mapping[str, str]:
        """The parts of the form KEY=value."""
        pairs = (part.partition("=") for part in self.message.split(" | "))
        return {key: value for key, equals, value in pairs if equals}

    @property
    def request_id(self) -> str:
        """The second part of a request's line."""
        return self.message.split(" | ", 2)[1] if " | " in self.message else ""

    @property
    def correlation(self) -> Mapping[str, str]:
        """Our id of a request's line, and the client's ids if it sent some; empty for other lines."""
        if not self.event.startswith("REQUEST_"):
            return {}
        theirs = {"client_id": self.fields.get("CLIENT_ID"), "trace": self.fields.get("TRACE")}
        return {"request_id": self.request_id, **{key: value for key, value in theirs.items() if value}}

    @property
    def cause(self) -> str:
        """The code of a line of restart.log."""
        found = _CAUSE.match(self.message)
        return found[1] if found else ""

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S ", time.gmtime(self.at)) if self.at else ""
        return f"{self.file}:{self.number}: {when}{self.level} {self.message}"[:300]


@dataclass(frozen=True, slots=True)
class Request:
    """One request: characters of text, pixels of the picture, times in seconds; None where not logged."""

    line: Line
    source: str
    reason: str | None
    chars: int | None
    pixels: int | None
    duration: float
    waited: float | None = None
    computed: float | None = None
    batch: int = 1
    device: str = ""
    model: str = ""  # and dtype

    @property
    def mostly_queued(self) -> bool:
        """Whether it spent at least half of its time in the queue."""
        return self.waited is not None and self.waited >= 0.5 * self.duration > 0


@dataclass(frozen=True, slots=True)
class Vitals:
    """One VITALS line: seconds since the process started, Unix time, resident bytes."""

    line: Line
    pid: int
    up: float
    unix: float
    rss: int
    loaded: bool


@dataclass
class Records:
    """Everything read from one folder, oldest first."""

    folder: Path
    app: list[Line] = field(default_factory=list)
    restarts: list[Line] = field(default_factory=list)
    console: list[Line] = field(default_factory=list)
    requests: list[Request] = field(default_factory=list)
    vitals: list[Vitals] = field(default_factory=list)
    postmortems: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.app or self.restarts or self.console)

    def of(self, event: str) -> Iterator[Line]:
        """Yield the lines of web_app.log with this event."""
        return (line for line in self.app if line.event == event)


def read(folder: Path, most_bytes: int = MOST_BYTES) -> Records:
    """Read the newest ``most_bytes`` of each log in ``folder``. Never raises for missing or damaged files."""
    records = Records(folder)
    records.app = list(_parsed(records, APP_LOG, _APP_LINE, most_bytes))
    records.restarts = list(_parsed(records, RESTART_LOG, _RESTART_LINE, most_bytes))
    records.console = list(_plain(records, CONSOLE_LOG, most_bytes))
    requests, records.vitals = _interpreted(records.app)
    records.requests = [*_older_timeouts(records, {one.line.request_id for one in requests}, most_bytes)]
    records.requests += requests
    records.postmortems = sorted(path.name for path in folder.glob("postmortem-*.txt"))
    return records


def _parsed(records: Records, name: str, form: re.Pattern[str], most: int) -> Iterator[Line]:
    for line in _plain(records, name, most):
        text = line.message
        found = form.fullmatch(_as_text(text) if form is _APP_LINE and text.startswith("{") else text)
        if found:
            date, hour, minute, second, level, message = found.groups()
            at = _midnight(date) + 3600 * int(hour) + 60 * int(minute) + int(second)
            yield Line(line.file, line.number, at, level, message)


def _as_text(line: str) -> str:
    """Return a line of --log-format json in the text form; "" for a damaged one."""
    try:
        record = json.loads(line)
        when = _JSON_TIME.fullmatch(record["time"])
        return f"{when[1]} {when[2]} | {record['level']} | {join(record)}" if when else ""
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""


def _plain(records: Records, name: str, most: int) -> Iterator[Line]:
    """Yield the unparsed lines of a log and its rotated files, oldest first."""
    left, texts = most, []
    for path in _rotated(records.folder / name):
        text = _text(records, path, left)
        texts.append((path.name, text))
        left -= len(text)
        if left <= 0:
            break
    for file, text in reversed(texts):
        for number, message in enumerate(text.splitlines(), 1):
            yield Line(file, number, 0.0, "", message)


def _rotated(path: Path) -> list[Path]:
    """Return the log and its rotated files, newest first: numbered or dated, compressed or not, as the
    service and logrotate name them."""
    numbered: list[tuple[int, Path]] = []
    dated: list[tuple[int, Path]] = []
    for one in path.parent.glob(f"{path.name}[.-]*"):
        if found := _ROTATED.fullmatch(one.name.removeprefix(path.name)):
            numbered.append((int(found[2]), one)) if found[1] == "." else dated.append((-int(found[2]), one))
    old = [one for _, one in (*sorted(numbered)[:100], *sorted(dated)[:100])]
    return [one for one in (path, *old) if one.is_file()]


def _text(records: Records, path: Path, most: int) -> str:
    """Return the last ``most`` bytes, starting at a line."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as packed:  # the first bytes: the unpacked size is unbounded
                data = packed.read(most)
            size = len(data)
        else:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - most))
                data = file.read(most)
    except (OSError, EOFError, zlib.error) as error:
        records.unreadable.append(f"{path.name}: {type(error).__name__}")
        return ""
    if size > most:
        data = data.partition(b"\n")[2]
    return data.decode("utf-8", errors="replace")


@cache
def _midnight(date: str) -> float:
    try:
        return float(calendar.timegm(time.strptime(date, "%Y-%m-%d")))
    except ValueError:  # 2026-02-31: a damaged line
        return 0.0


def _interpreted(lines: Iterable[Line]) -> tuple[list[Request], list[Vitals]]:
    """Return requests, joined from their lines, and vitals, with what was loaded at the time."""
    starts: dict[str, Mapping[str, str]] = {}
    requests: list[Request] = []
    vitals: list[Vitals] = []
    model = dtype = ""
    loaded: bool | None = None  # unknown where the log starts in the middle of a process's life
    for line in lines:
        match line.event:
            case "MODEL_LOADING":
                model, loaded = line.fields.get("MODEL", ""), False
            case "DEVICE":
                dtype = line.fields.get("DTYPE", "")
            case "MODEL_LOADED":
                loaded = True
            case "VITALS":
                if (one := _vitals(line, loaded)) is not None:
                    vitals.append(one)
            case "REQUEST_START":
                starts[line.request_id] = line.fields
            case "REQUEST_END" | "REQUEST_ERROR":
                requests.append(_request(line, starts.pop(line.request_id, {}), f"{model} {dtype}"))
    return requests, vitals


def _older_timeouts(records: Records, known: set[str], most: int) -> Iterator[Request]:
    """Yield the timeouts of slow_requests.log that web_app.log, which fills faster, no longer has."""
    for line in _plain(records, SLOW_LOG, most):
        columns = line.message.split("\t")
        if len(columns) < 7 or (unix := whole(columns[0])) is None or columns[3] in known:
            continue
        width, height = (whole(side) for side in columns[6].partition("x")[::2])
        duration = _seconds(columns[5]) or 0.0
        at = float(calendar.timegm(time.localtime(min(unix, 1 << 40))))
        yield Request(
            Line(line.file, line.number, at, "TIMEOUT", line.message.replace("\t", " ")),
            source=columns[7] if columns[7:] else "api",
            reason="timeout",
            chars=whole(columns[2].removesuffix(" chars")),
            pixels=None if width is None or height is None else width * height,
            duration=duration,
            waited=duration if columns[4] == "waiting" else 0.0,
        )


def _request(line: Line, start: Mapping[str, str], model: str) -> Request:
    end = line.fields
    size = _SIZE.fullmatch(start.get("IMG_SIZE", ""))
    chars = whole(start.get("TEXT_LEN"))
    return Request(
        line,
        source=end.get("SOURCE", "api"),
        reason=None if line.event == "REQUEST_END" else end.get("REASON", "error"),
        chars=None if chars is None else chars + (whole(start.get("PREMISE_LEN")) or 0),
        pixels=int(size[1]) * int(size[2]) if size else None,
        duration=_seconds(end.get("DURATION")) or 0.0,
        waited=_seconds(end.get("WAITED")),
        computed=_seconds(end.get("COMPUTED")),
        batch=whole(end.get("BATCH")) or 1,
        device=end.get("DEVICE", ""),
        model=model,
    )


def _vitals(line: Line, loaded: bool | None) -> Vitals | None:
    fields = line.fields
    try:
        up = float(fields["UP"].removesuffix("s"))
        loaded = up > LOADING_SECONDS if loaded is None else loaded
        return Vitals(line, int(fields["PID"]), up, float(fields["UNIX"]), int(fields["RSS"]), loaded)
    except (KeyError, ValueError):
        return None


def whole(text: str | None) -> int | None:
    """Return a whole number of a log field; None for a missing or damaged one."""
    try:
        return None if text is None else int(text)
    except ValueError:
        return None


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else float(text.removesuffix("s"))
    except ValueError:
        return None

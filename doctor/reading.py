"""The logs of a run folder as records: lines with their time and kind, requests, lives of processes.

What is read is bounded: the newest part of each log, rotated files included. A line that cannot be understood
is passed over; a file that cannot be read is named. Times are seconds of the local wall clock, as the logs
tell it, and good for differences alone.
"""

from __future__ import annotations

import calendar
import gzip
import re
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Final

MOST_BYTES: Final = 24 << 20  # of each log: what a service writes in weeks
LOADING_SECONDS: Final = (
    60.0  # a process that is up for longer has loaded its model, unless the log says else
)
APP_LOG: Final = "web_app.log"
SLOW_LOG: Final = "slow_requests.log"
RESTART_LOG: Final = "restart.log"
CONSOLE_LOG: Final = "console.log"
_APP_LINE: Final = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d):(\d\d):(\d\d) \| ([A-Z]+) *\| (.*)")
_RESTART_LINE: Final = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d):(\d\d):(\d\d) \[([A-Z]+)\] (.*)")
_CAUSE: Final = re.compile(r"CAUSE=([a-z_]+) ")
_OLD: Final = re.compile(r"([.-])(\d{1,14})(\.gz)?")
_SIZE: Final = re.compile(r"\((\d+), (\d+)\)")


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a log. ``kind`` is the first part of its message, ``parts`` are all of them."""

    file: str
    number: int
    at: float
    level: str
    message: str

    @property
    def kind(self) -> str:
        return self.message.partition(" | ")[0]

    @property
    def fields(self) -> Mapping[str, str]:
        """The parts of the form KEY=value."""
        pairs = (part.partition("=") for part in self.message.split(" | "))
        return {key: value for key, equals, value in pairs if equals}

    @property
    def cause(self) -> str:
        """The code of a line of restart.log."""
        found = _CAUSE.match(self.message)
        return found[1] if found else ""

    def __str__(self) -> str:
        when = time.strftime("%Y-%m-%d %H:%M:%S ", time.gmtime(self.at)) if self.at else ""
        return f"{self.file}:{self.number}: {when}{self.level} {self.message}"[:300]


@dataclass(frozen=True, slots=True)
class Asked:
    """One request from its lines: characters of text, pixels of its picture, seconds; None where not told."""

    line: Line
    source: str
    reason: str | None
    chars: int | None
    pixels: int | None
    duration: float
    waited: float | None = None
    computed: float | None = None
    prepared: float | None = None
    ahead: int | None = None
    batch: int = 1
    device: str = ""
    setting: str = ""  # the model and precision it was asked of

    @property
    def crowded(self) -> bool:
        """Whether most of its time was spent waiting for others."""
        return self.waited is not None and self.waited >= 0.5 * self.duration > 0


@dataclass(frozen=True, slots=True)
class Vital:
    """One VITALS line: seconds the process was up, the set clock, resident bytes."""

    line: Line
    pid: int
    up: float
    unix: float
    rss: int
    loaded: bool


@dataclass
class Records:
    """All that was read of one folder, oldest first."""

    folder: Path
    app: list[Line] = field(default_factory=list)
    restarts: list[Line] = field(default_factory=list)
    console: list[Line] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    vitals: list[Vital] = field(default_factory=list)
    postmortems: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    @property
    def empty(self) -> bool:
        return not (self.app or self.restarts or self.console)

    def of(self, *kinds: str) -> Iterator[Line]:
        """Lines of web_app.log of these kinds."""
        return (line for line in self.app if line.kind in kinds)


def read(folder: Path, most_bytes: int = MOST_BYTES) -> Records:
    """What lies in ``folder``, of each log the newest ``most_bytes``. Never raises for what is missing or
    damaged."""
    records = Records(folder)
    records.app = list(_parsed(records, APP_LOG, _APP_LINE, most_bytes))
    records.restarts = list(_parsed(records, RESTART_LOG, _RESTART_LINE, most_bytes))
    records.console = list(_plain(records, CONSOLE_LOG, most_bytes))
    records.asked, records.vitals = _followed(records.app)
    records.asked = [*_only_slow(records, most_bytes), *records.asked]
    records.postmortems = sorted(path.name for path in folder.glob("postmortem-*.txt"))
    return records


def _parsed(records: Records, name: str, form: re.Pattern[str], most: int) -> Iterator[Line]:
    for line in _plain(records, name, most):
        found = form.fullmatch(line.message)
        if found:
            date, hour, minute, second, level, message = found.groups()
            at = _midnight(date) + 3600 * int(hour) + 60 * int(minute) + int(second)
            yield Line(line.file, line.number, at, level, message)


def _plain(records: Records, name: str, most: int) -> Iterator[Line]:
    """The lines of a log and its rotated files as they stand, oldest first."""
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
    """The log and its rotated files that exist, newest first: ours and logrotate's, by number or by date,
    compressed or not."""
    numbered: list[tuple[int, Path]] = []
    dated: list[tuple[int, Path]] = []
    for one in path.parent.glob(f"{path.name}[.-]*"):
        if found := _OLD.fullmatch(one.name.removeprefix(path.name)):
            numbered.append((int(found[2]), one)) if found[1] == "." else dated.append((-int(found[2]), one))
    old = [one for _, one in (*sorted(numbered)[:100], *sorted(dated)[:100])]
    return [one for one in (path, *old) if one.is_file()]


def _text(records: Records, path: Path, most: int) -> str:
    """The last ``most`` bytes, from the beginning of a line on."""
    try:
        if path.suffix == ".gz":
            with gzip.open(path) as packed:  # from its beginning, as what it unpacks to may be without bound
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


def _followed(lines: Iterable[Line]) -> tuple[list[Asked], list[Vital]]:
    """Requests, put together from their lines, and vitals, in the light of what was loaded at the time."""
    starts: dict[str, Mapping[str, str]] = {}
    asked: list[Asked] = []
    vitals: list[Vital] = []
    model = dtype = ""
    loaded: bool | None = None  # unknown where the log begins in the middle of a process's life
    for line in lines:
        match line.kind:
            case "MODEL_LOADING":
                model, loaded = line.fields.get("MODEL", ""), False
            case "DEVICE":
                dtype = line.fields.get("DTYPE", "")
            case "MODEL_LOADED":
                loaded = True
            case "VITALS":
                if (vital := _vital(line, loaded)) is not None:
                    vitals.append(vital)
            case "REQUEST_START":
                starts[_id(line)] = line.fields
            case "REQUEST_END" | "REQUEST_ERROR":
                asked.append(_asked(line, starts.pop(_id(line), {}), f"{model} {dtype}"))
    return asked, vitals


def _only_slow(records: Records, most: int) -> list[Asked]:
    """Timeouts that slow_requests.log still tells of when web_app.log, which fills faster, does no longer."""
    known = {_id(one.line) for one in records.asked}
    found = []
    for line in _plain(records, SLOW_LOG, most):
        columns = line.message.split("\t")
        if len(columns) < 7 or not columns[0].isdigit() or columns[3] in known:
            continue
        width, _, height = columns[6].partition("x")
        chars, duration = columns[2].removesuffix(" chars"), _seconds(columns[5]) or 0.0
        at = float(calendar.timegm(time.localtime(min(int(columns[0]), 1 << 40))))
        found.append(
            Asked(
                Line(line.file, line.number, at, "TIMEOUT", line.message.replace("\t", " ")),
                source=columns[7] if columns[7:] else "api",
                reason="timeout",
                chars=int(chars) if chars.isdigit() else None,
                pixels=int(width) * int(height) if width.isdigit() and height.isdigit() else None,
                duration=duration,
                waited=duration if columns[4] == "waiting" else 0.0,
            )
        )
    return found


def _id(line: Line) -> str:
    return line.message.split(" | ", 2)[1] if " | " in line.message else ""


def _asked(line: Line, start: Mapping[str, str], setting: str) -> Asked:
    told = line.fields
    size = _SIZE.fullmatch(start.get("IMG_SIZE", ""))
    chars = start.get("TEXT_LEN", "")
    return Asked(
        line,
        source=told.get("SOURCE", "api"),
        reason=None if line.kind == "REQUEST_END" else told.get("REASON", "error"),
        chars=int(chars) + int(start.get("PREMISE_LEN", "0")) if chars.isdigit() else None,
        pixels=int(size[1]) * int(size[2]) if size else None,
        duration=_seconds(told.get("DURATION")) or 0.0,
        waited=_seconds(told.get("WAITED")),
        computed=_seconds(told.get("COMPUTED")),
        prepared=_seconds(told.get("PREPARED")),
        ahead=int(told["AHEAD"]) if told.get("AHEAD", "").isdigit() else None,
        batch=int(told["BATCH"]) if told.get("BATCH", "").isdigit() else 1,
        device=told.get("DEVICE", ""),
        setting=setting,
    )


def _vital(line: Line, loaded: bool | None) -> Vital | None:
    told = line.fields
    try:
        up = float(told["UP"].removesuffix("s"))
        loaded = up > LOADING_SECONDS if loaded is None else loaded
        return Vital(line, int(told["PID"]), up, float(told["UNIX"]), int(told["RSS"]), loaded)
    except (KeyError, ValueError):
        return None


def _seconds(text: str | None) -> float | None:
    try:
        return None if text is None else float(text.removesuffix("s"))
    except ValueError:
        return None

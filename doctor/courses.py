"""Ailments that no single line shows: how times, memory, clocks and restarts went."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import median, quantiles
from typing import Final

from doctor.findings import Finding, found
from doctor.reading import Asked, Line, Records, Vital
from service.contract.causes import Refusal, RestartCause

MINUTE: Final = 60.0
FEW: Final = 6  # measurements on each side that a comparison needs
MANY: Final = 20  # of which so many, at most, stand for a time
DRIFT_RATIO: Final = 3.0  # times as long as at first …
DRIFT_SECONDS: Final = 1.0  # … and so many seconds more: a busy moment of a fast model is no drift
BUSY_A_MINUTE: Final = 5
LEAK_BYTES: Final = 64 << 20
LEAK_SHARE: Final = 0.2
LEAK_SECONDS: Final = 10 * MINUTE  # what rises for less may be caches that fill
JUMP_SECONDS: Final = 5.0
STANDSTILL_SECONDS: Final = 15.0
LOOP_SECONDS: Final = 15 * MINUTE
RESTARTS: Final = frozenset(RestartCause)
USERS: Final = ("page", "api")


# ---- how long requests take ------------------------------------------------------------------------------


def drift(records: Records) -> Iterator[Finding]:
    """Like questions: of one model and precision, on one device, as many together, of similar length."""
    like: dict[tuple[object, ...], list[Asked]] = defaultdict(list)
    device: dict[str, str] = {}
    for one in records.asked:
        if one.source not in USERS or not _took(one) or one.reason not in (None, "timeout"):
            continue
        device[one.setting] = one.device or device.get(one.setting, "")  # a timeout does not know its device
        like[one.setting, device[one.setting], one.batch, (one.chars or 0).bit_length()].append(one)
    for asked in like.values():
        if len(asked) < 2 * FEW:
            continue
        size = min(MANY, len(asked) // 2)
        first, last = asked[:size], asked[-size:]
        before, after = (median(map(_took, part)) for part in (first, last))
        if after < DRIFT_RATIO * before or after - before < DRIFT_SECONDS:
            continue
        if quantiles(map(_took, last))[0] < 0.5 * DRIFT_RATIO * before:
            continue  # some are slow and some are not: another matter
        where = last[-1].device or first[0].device
        ratio = f"{after / max(before, 0.01):.0f}"  # the logs tell hundredths of a second
        lines = [one.line for one in (*first[:1], *last)]
        yield found(
            "latency-drift", lines, before=f"{before:.2f}", after=f"{after:.1f}", ratio=ratio, device=where
        )


def _took(one: Asked) -> float:
    """Seconds of computation; of older logs, which do not tell it, all seconds. 0: it was never computed."""
    if one.waited is None:
        return one.duration
    return one.computed or 0.0


def clusters(records: Records) -> Iterator[Finding]:
    """Timeouts of requests that stand out by the length of their text or the size of their picture."""
    users = [one for one in records.asked if one.source in USERS]
    slow = [one for one in users if one.reason == "timeout" and not one.crowded]
    fast = [one for one in users if one.reason is None]
    yield from _cluster("timeouts-long-text", slow, fast, lambda one: one.chars, lambda value: f"{value:.0f}")
    yield from _cluster(
        "timeouts-large-picture", slow, fast, lambda one: one.pixels, lambda value: f"{value / 1e6:.2g}"
    )


def _cluster(
    code: str,
    slow: Sequence[Asked],
    fast: Sequence[Asked],
    size: Callable[[Asked], int | None],
    shown: Callable[[float], str],
) -> Iterator[Finding]:
    large = [value for one in slow if (value := size(one)) is not None]
    small = [value for one in fast if (value := size(one)) is not None]
    if min(len(large), len(small)) < FEW - 1 or median(large) < 2 * median(small):
        return
    # How often a request that timed out was larger than one that did not: 0.5 if size had no say.
    pairs = [(a > b) + 0.5 * (a == b) for a in large[-200:] for b in small[-200:]]
    if sum(pairs) >= 0.9 * len(pairs):
        lines = [one.line for one in slow]
        yield found(code, lines, slow=shown(median(large)), fast=shown(median(small)))


def overload(records: Records) -> Iterator[Finding]:
    """Requests turned away for want of room, or timed out while they waited for others."""
    crowd = [
        one.line
        for one in records.asked
        if one.source in USERS
        and (
            one.reason in (Refusal.QUEUE_FULL, Refusal.TOO_LATE) or (one.reason == "timeout" and one.crowded)
        )
    ]
    peak = _most_within(MINUTE, [line.at for line in crowd])
    if peak >= BUSY_A_MINUTE:
        yield found("overload", crowd, peak=peak)


def _most_within(span: float, times: Iterable[float]) -> int:
    """How many of the times, which are in order, fall within ``span`` seconds at most."""
    window: deque[float] = deque()
    most = 0
    for at in times:
        window.append(at)
        while window[0] < at - span:
            window.popleft()
        most = max(most, len(window))
    return most


# ---- how the process fares -------------------------------------------------------------------------------


def creep(records: Records) -> Iterator[Finding]:
    """Resident memory that rises from one sixth of a process's life to the next, and does not level off."""
    for vitals in _lives(records.vitals):
        known = [one for one in vitals if one.loaded]
        known = known[len(known) // 10 :]  # the first requests fill caches
        if len(known) < 2 * FEW or known[-1].up - known[0].up < LEAK_SECONDS:
            continue
        size = len(known) / 6
        levels = [median(v.rss for v in known[int(n * size) : int((n + 1) * size)]) for n in range(6)]
        steps = [after - before for before, after in pairwise(levels)]
        risen = levels[-1] - levels[0]
        if risen < LEAK_BYTES or risen < LEAK_SHARE * levels[0]:
            continue
        if sum(step > 0 for step in steps) < len(steps) - 1 or steps[-1] < risen / len(steps) / 4:
            continue
        yield found(
            "memory-creep",
            [one.line for one in known],
            before=round(levels[0] / 2**20),
            after=round(levels[-1] / 2**20),
            minutes=f"{(known[-1].up - known[0].up) / MINUTE:.0f}",
        )


def clock(records: Records) -> Iterator[Finding]:
    """The set clock against the one that no setting moves."""
    lines: list[Line] = []
    jumps: list[float] = []
    for vitals in _lives(records.vitals):
        for before, after in pairwise(vitals):
            jump = (after.unix - before.unix) - (after.up - before.up)
            if abs(jump) >= JUMP_SECONDS:
                jumps.append(jump)
                lines += [before.line, after.line]
    if jumps:
        yield found("clock-jump", lines, jump=f"{max(jumps, key=abs):+.0f}")


def standstill(records: Records) -> Iterator[Finding]:
    """Lines that a process had to write, missing from the middle of its life."""
    gaps = {id(line) for line in records.of("LOG_GAP")}
    places = {id(line): n for n, line in enumerate(records.app)}
    lines: list[Line] = []
    longest = 0.0
    for vitals in _lives(records.vitals):
        pauses = [after.up - before.up for before, after in pairwise(vitals)]
        usual = median(pauses) if pauses else 0.0
        for (before, after), pause in zip(pairwise(vitals), pauses, strict=True):
            between = records.app[places[id(before.line)] : places[id(after.line)] + 2]
            lost = any(id(line) in gaps for line in between)  # written to nowhere, and told as such
            if pause > max(3 * usual, usual + STANDSTILL_SECONDS) and before.loaded and not lost:
                longest = max(longest, pause)
                lines += [before.line, after.line]
    if lines:
        yield found("standstill", lines, gap=f"{longest:.0f}")


def _lives(vitals: Sequence[Vital]) -> list[list[Vital]]:
    """The vitals of each process; a number that is used again, or a time that runs back, is another one."""
    lives: list[list[Vital]] = []
    current: dict[int, list[Vital]] = {}
    for vital in vitals:
        life = current.get(vital.pid)
        if life is None or vital.up < life[-1].up:
            life = current[vital.pid] = []
            lives.append(life)
        life.append(vital)
    return lives


def gaps(records: Records) -> Iterator[Finding]:
    lines = list(records.of("LOG_GAP"))
    if lines:
        lost = sum(int(line.fields.get("LOST", "0")) for line in lines)
        yield found("log-gap", lines, lost=lost)


def on_cpu(records: Records) -> Iterator[Finding]:
    """From each fall to the CPU to the way back, the end of the process, or the end of the log."""
    lines: list[Line] = []
    seconds, since = 0.0, None
    for line in records.app:
        if line.kind == "DEGRADED":
            since = line.at if since is None else since
            lines.append(line)
        elif since is not None and (line.kind in ("PROMOTED", "STOPPING") or _begins(line)):
            seconds += line.at - since
            since = None
            lines += [line] if line.kind == "PROMOTED" else []
    if since is not None:
        seconds += records.app[-1].at - since
    if lines:
        yield found("time-on-cpu", lines, over=since is None, seconds=f"{seconds:.0f}")


def orphaned(records: Records) -> Iterator[Finding]:
    """Those that ended by themselves; what did not end is a hung process."""
    if not any(line.kind == "HUNG" for line in records.app):
        lines = list(records.of("ORPHANED"))
        if lines and not any(line.cause == RestartCause.HUNG for line in records.restarts):
            yield found("orphaned", lines, over=True)


# ---- how processes begin and end -------------------------------------------------------------------------


def loop(records: Records) -> Iterator[Finding]:
    restarts = [line for line in records.restarts if line.cause in RESTARTS - {RestartCause.ASKED}]
    if _most_within(LOOP_SECONDS, [line.at for line in restarts]) >= 3:
        yield found("restart-loop", restarts)


def silent(records: Records) -> Iterator[Finding]:
    """A beginning in the log without an end before it that anybody told of."""
    told = [line.at for line in records.restarts if line.cause in RESTARTS]
    lines: list[Line] = []
    began: Line | None = None  # the process whose end has not been told yet
    begins = _started if any(map(_started, records.app)) else _begins
    for line in records.app:
        if begins(line):
            if began is not None and not any(began.at <= at <= line.at + 1 for at in told):
                lines += [began, line]
            began = line
        elif line.kind in ("Ended.", "STOPPING", "RESTART_NEEDED", "HUNG"):
            began = None
    if lines:
        yield found("died-silently", lines)


def _started(line: Line) -> bool:
    """The first line of each process."""
    return line.kind == "STARTED"


def _begins(line: Line) -> bool:
    """One that each process writes once, when its health API answers; in older logs the first of such."""
    return line.message.startswith("Health: http")


COURSES: Final[tuple[Callable[[Records], Iterator[Finding]], ...]] = (
    *(drift, clusters, overload, creep, clock, standstill, gaps, on_cpu, orphaned, loop, silent),
)

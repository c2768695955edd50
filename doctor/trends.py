"""Problems that no single line shows: trends of latency, memory, clocks and restarts."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from statistics import median, quantiles
from typing import Final

from doctor.findings import Finding, found
from doctor.reading import Line, Records, Request, Vitals, whole
from service.contract.causes import Refusal, RestartCause

MINUTE: Final = 60.0
MIN_SAMPLES: Final = 6  # on each side of a comparison
MAX_SAMPLES: Final = 20
DRIFT_RATIO: Final = 3.0
DRIFT_SECONDS: Final = 1.0  # smaller changes are the noise of a busy machine
OVERLOAD_PER_MINUTE: Final = 5
LEAK_BYTES: Final = 64 << 20
LEAK_SHARE: Final = 0.2
LEAK_SECONDS: Final = 10 * MINUTE  # a shorter rise may be caches that fill
JUMP_SECONDS: Final = 5.0
STANDSTILL_SECONDS: Final = 15.0
LOOP_SECONDS: Final = 15 * MINUTE
LOOP_RESTARTS: Final = 3
RESTARTS: Final = frozenset(RestartCause)
USERS: Final = ("page", "api")


# ---- latency ---------------------------------------------------------------------------------------------


def drift(records: Records) -> Iterator[Finding]:
    """Compare the first and last requests of the same model, dtype, device, batch size and text length."""
    groups: dict[tuple[object, ...], list[Request]] = defaultdict(list)
    devices: dict[str, str] = {}
    for one in records.requests:
        if one.source not in USERS or not _computed(one) or one.reason not in (None, "timeout"):
            continue
        devices[one.model] = one.device or devices.get(one.model, "")  # lines of timeouts have no device
        groups[one.model, devices[one.model], one.batch, (one.chars or 0).bit_length()].append(one)
    for requests in groups.values():
        if len(requests) < 2 * MIN_SAMPLES:
            continue
        size = min(MAX_SAMPLES, len(requests) // 2)
        first, last = requests[:size], requests[-size:]
        before, after = (median(map(_computed, part)) for part in (first, last))
        if after < DRIFT_RATIO * before or after - before < DRIFT_SECONDS:
            continue
        if quantiles(map(_computed, last))[0] < 0.5 * DRIFT_RATIO * before:
            continue  # only some requests are slow: not a drift
        yield found(
            "latency-drift",
            [one.line for one in (*first[:1], *last)],
            before=f"{before:.2f}",
            after=f"{after:.1f}",
            ratio=f"{after / max(before, 0.01):.0f}",  # the logs have hundredths of a second
            device=last[-1].device or first[0].device,
        )


def _computed(one: Request) -> float:
    """Return the seconds of computation, 0 if there was none. Older logs only have the total."""
    if one.waited is None:
        return one.duration
    return one.computed or 0.0


def clusters(records: Records) -> Iterator[Finding]:
    """Find timeouts that correlate with the length of the text or the size of the picture."""
    users = [one for one in records.requests if one.source in USERS]
    slow = [one for one in users if one.reason == "timeout" and not one.mostly_queued]
    fast = [one for one in users if one.reason is None]
    yield from _cluster("timeouts-long-text", slow, fast, lambda one: one.chars, lambda value: f"{value:.0f}")
    yield from _cluster(
        "timeouts-large-picture", slow, fast, lambda one: one.pixels, lambda value: f"{value / 1e6:.2g}"
    )


def _cluster(
    code: str,
    slow: Sequence[Request],
    fast: Sequence[Request],
    size: Callable[[Request], int | None],
    shown: Callable[[float], str],
) -> Iterator[Finding]:
    large = [value for one in slow if (value := size(one)) is not None]
    small = [value for one in fast if (value := size(one)) is not None]
    if min(len(large), len(small)) < MIN_SAMPLES - 1 or median(large) < 2 * median(small):
        return
    # The share of pairs in which the timed-out request was the larger one: 0.5 without correlation.
    pairs = [(a > b) + 0.5 * (a == b) for a in large[-200:] for b in small[-200:]]
    if sum(pairs) >= 0.9 * len(pairs):
        lines = [one.line for one in slow]
        yield found(code, lines, slow=shown(median(large)), fast=shown(median(small)))


def overload(records: Records) -> Iterator[Finding]:
    """Find requests that were rejected by a full queue or timed out in it, and those over their client's
    share."""
    full: list[Line] = []
    share: list[Line] = []
    for one in records.requests:
        if one.source not in USERS:
            continue
        if one.reason == Refusal.CALLER_LIMIT:
            share.append(one.line)
        elif one.reason in (Refusal.QUEUE_FULL, Refusal.TOO_LATE) or (
            one.reason == "timeout" and one.mostly_queued
        ):
            full.append(one.line)
    for code, lines in (("overload", full), ("caller-limit", share)):
        peak = _most_within(MINUTE, [line.at for line in lines])
        if peak >= OVERLOAD_PER_MINUTE:
            yield found(code, lines, peak=peak)


def _most_within(span: float, times: Iterable[float]) -> int:
    """Return the largest number of ``times``, which are in order, in any window of ``span`` seconds."""
    window: deque[float] = deque()
    most = 0
    for at in times:
        window.append(at)
        while window[0] < at - span:
            window.popleft()
        most = max(most, len(window))
    return most


# ---- the process -----------------------------------------------------------------------------------------


def memory_growth(records: Records) -> Iterator[Finding]:
    """Find resident memory that rises through all sixths of a process's life and does not level off."""
    for life in _lives(records.vitals):
        known = [one for one in life if one.loaded]
        known = known[len(known) // 10 :]  # the first requests fill caches
        if len(known) < 2 * MIN_SAMPLES or known[-1].up - known[0].up < LEAK_SECONDS:
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


def clock_jumps(records: Records) -> Iterator[Finding]:
    """Compare the wall clock with the monotonic clock."""
    lines: list[Line] = []
    jumps: list[float] = []
    for life in _lives(records.vitals):
        for before, after in pairwise(life):
            jump = (after.unix - before.unix) - (after.up - before.up)
            if abs(jump) >= JUMP_SECONDS:
                jumps.append(jump)
                lines += [before.line, after.line]
    if jumps:
        yield found("clock-jump", lines, jump=f"{max(jumps, key=abs):+.0f}")


def standstill(records: Records) -> Iterator[Finding]:
    """Find periodic lines that are missing in the middle of a process's life."""
    lost = {id(line) for line in records.of("LOG_GAP")}
    positions = {id(line): n for n, line in enumerate(records.app)}
    lines: list[Line] = []
    longest = 0.0
    for life in _lives(records.vitals):
        pauses = [after.up - before.up for before, after in pairwise(life)]
        usual = median(pauses) if pauses else 0.0
        for (before, after), pause in zip(pairwise(life), pauses, strict=True):
            if pause <= max(3 * usual, usual + STANDSTILL_SECONDS) or not before.loaded:
                continue
            between = records.app[positions[id(before.line)] : positions[id(after.line)] + 2]
            if not any(id(line) in lost for line in between):  # those were written, but not to the disk
                longest = max(longest, pause)
                lines += [before.line, after.line]
    if lines:
        yield found("standstill", lines, gap=f"{longest:.0f}")


def _lives(vitals: Sequence[Vitals]) -> list[list[Vitals]]:
    """Split vitals by process. A process id whose uptime goes back is a new process."""
    lives: list[list[Vitals]] = []
    current: dict[int, list[Vitals]] = {}
    for one in vitals:
        life = current.get(one.pid)
        if life is None or one.up < life[-1].up:
            life = current[one.pid] = []
            lives.append(life)
        life.append(one)
    return lives


def log_gaps(records: Records) -> Iterator[Finding]:
    """Count the lines that could not be written."""
    lines = list(records.of("LOG_GAP"))
    if lines:
        lost = sum(whole(line.fields.get("LOST")) or 0 for line in lines)
        yield found("log-gap", lines, lost=lost)


def on_cpu(records: Records) -> Iterator[Finding]:
    """Add up the time in fallback mode: from a move to the CPU to the move back, the exit or the log's
    end."""
    lines: list[Line] = []
    seconds, since = 0.0, None
    for line in records.app:
        if line.event == "DEGRADED":
            since = line.at if since is None else since
            lines.append(line)
        elif since is not None and (line.event in ("PROMOTED", "STOPPING") or _health_listens(line)):
            seconds += line.at - since
            since = None
            lines += [line] if line.event == "PROMOTED" else []
    if since is not None:
        seconds += records.app[-1].at - since
    if lines:
        yield found("time-on-cpu", lines, resolved=since is None, seconds=f"{seconds:.0f}")


def not_cancelling(records: Records) -> Iterator[Finding]:
    """Find cancelled computations that stopped late; one that never stops is a hung process."""
    hung = any(records.of("HUNG")) or any(line.cause == RestartCause.HUNG for line in records.restarts)
    lines = list(records.of("ORPHANED"))
    if lines and not hung:
        yield found("orphaned", lines, resolved=True)


# ---- starts and exits ------------------------------------------------------------------------------------


def restart_loop(records: Records) -> Iterator[Finding]:
    """Find restarts in quick succession that were not requested."""
    restarts = [line for line in records.restarts if line.cause in RESTARTS - {RestartCause.ASKED}]
    if _most_within(LOOP_SECONDS, [line.at for line in restarts]) >= LOOP_RESTARTS:
        yield found("restart-loop", restarts)


def silent_exits(records: Records) -> Iterator[Finding]:
    """Find starts in the log before which neither the previous process nor the guardian logged an exit."""
    restarts = [line.at for line in records.restarts if line.cause in RESTARTS]
    lines: list[Line] = []
    running: Line | None = None  # the start of a process whose exit has not been logged yet
    starts = _started if any(records.of("STARTED")) else _health_listens  # older logs have no STARTED
    for line in records.app:
        if starts(line):
            if running is not None and not any(running.at <= at <= line.at + 1 for at in restarts):
                lines += [running, line]
            running = line
        elif line.event in ("ENDED", "Ended.", "STOPPING", "RESTART_NEEDED", "HUNG"):
            running = None
    if lines:
        yield found("died-silently", lines)


def _started(line: Line) -> bool:
    return line.event == "STARTED"


def _health_listens(line: Line) -> bool:
    """Whether a health API started to listen, once per process; in the present and the older form."""
    return line.message.startswith(("LISTENING | SERVER=health ", "Health: http"))


CHECKS: Final[tuple[Callable[[Records], Iterator[Finding]], ...]] = (
    *(drift, clusters, overload, memory_growth, clock_jumps, standstill, log_gaps, on_cpu, not_cancelling),
    *(restart_loop, silent_exits),
)

"""The HTML of the operations tab, part by part, in both languages.

All foreign text is escaped: log lines name other programs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from html import escape
from itertools import groupby
from operator import attrgetter
from typing import Final

from page import banner, pending
from page.operations.plots import Line, Points, bucketed, figure
from page.verdicts import device_name, seconds
from page.words import Language, has, say, say_html
from service.contract.status import Activity, Phase
from service.health.resources import Use
from service.operations import Finding, View
from service.process.restart_log import Restart
from service.telemetry.history import SPAN, Change, Ended, Sample

POINTS_A_MINUTE: Final = 4  # each is the maximum of its 15 seconds
MEGABYTE: Final = 1_000_000


# ---- without a session ----------------------------------------------------------------------------------


def login(language: Language) -> str:
    """Return the login form."""
    word = _words(language)
    return (
        f'<form class="ops-login" method="post" data-login><h2>{word("login.title")}</h2>'
        f"<p>{word('login.text')}</p><label>{word('login.label')}"
        '<input type="password" name="password" autocomplete="current-password" required></label>'
        f'<button type="submit">{word("login.button")}</button><p role="alert" data-message></p></form>'
    )


# ---- the frame -------------------------------------------------------------------------------------------


def frame(language: Language) -> str:
    """Return the fixed HTML around the parts."""
    word = _words(language)
    initial = {"findings": _nothing(language, "findings.wait")}
    sections = "".join(
        f'<section class="ops-{name}"><h2>{word(name)}</h2>'
        f'<div data-part="{name}">{initial.get(name, "")}</div></section>'
        for name in ("findings", "restarts", "changes", "requests")
    )
    return (
        '<div class="ops"><div class="ops-bar"><div data-part="buttons"></div>'
        '<p class="ops-message" role="status" data-message></p></div>'
        f'<div data-part="facts"></div><div class="plots" data-part="plots"></div>{sections}</div>'
    )


def parts(view: View, restarts: Sequence[Restart], language: Language) -> dict[str, str]:
    """Return all parts but the findings, by name."""
    return {
        "buttons": _buttons(view, language),
        "facts": _facts(view, language),
        "plots": _plots(view, language),
        "restarts": _restarts(restarts, language),
        "changes": _changes(view.changes, language),
        "requests": _requests(view.requests, language),
    }


def _buttons(view: View, language: Language) -> str:
    word = _words(language)
    enabled = {
        "probe": view.snapshot.phase is Phase.LOADED,
        "cache": view.resources.gpu is not None,
    }
    buttons = "".join(
        f'<button type="button" data-do="{name}"{"" if can else " disabled"}'
        f' title="{word(f"{name}.info") if can else word(f"{name}.not")}">{word(f"{name}.button")}</button>'
        for name, can in enabled.items()
    )
    return buttons + f'<button type="button" data-do="logout">{word("logout.button")}</button>'


# ---- now -------------------------------------------------------------------------------------------------


def _facts(view: View, language: Language) -> str:
    word = _words(language)
    snapshot, report = view.snapshot, view.report
    health = "healthy" if report.healthy else "unhealthy"
    facts = {
        "state": f'<b class="ops-{health}">{word(health)}</b> · {_state(view, language)}',
        "model": escape(snapshot.model) or "–",
        "device": _joined(device_name(snapshot.device), snapshot.dtype),
        "evidence": _evidence(view, language),
        "queue": escape(_queue(snapshot.activity, language)),
        "memory": escape(_memory(view, language)),
        "gpu": _joined(_use(view.resources.gpu), view.resources.gpu_name),
        "disk": escape(_use(view.resources.disk)),
        "uptime": escape(age(report.timestamp - snapshot.started_unix, language)),
    }
    return (
        '<dl class="ops-facts">'
        + "".join(f"<div><dt>{word(name)}</dt><dd>{html}</dd></div>" for name, html in facts.items())
        + "</dl>"
    )


def _state(view: View, language: Language) -> str:
    parts = [banner.state_html(view.snapshot, language)]
    details = view.report.details
    if not view.report.healthy:
        parts.append(f"<code>model: {escape(details['model'])}</code>")
        parts.append(f"<code>inference: {escape(details['inference'])}</code>")
    problems = (view.snapshot.degraded, view.snapshot.last_error)
    parts += [f"<span>{escape(problem)}</span>" for problem in problems if problem]
    return " · ".join(parts)


def _queue(activity: Activity, language: Language) -> str:
    parts = [
        say(
            language,
            "ops.queue.text",
            waiting=activity.depth,
            capacity=activity.capacity,
            computing=activity.computing,
        )
    ]
    if activity.expected_seconds is not None:
        parts.append(pending.wait(activity.expected_seconds, language))
    return " · ".join(parts)


def _evidence(view: View, language: Language) -> str:
    known = view.snapshot.evidence
    if known.proven_at is None or known.proven_by is None:
        parts = [say(language, "ops.evidence.none")]
    else:
        since = age(view.now - known.proven_at, language)
        parts = [say(language, f"ops.evidence.{known.proven_by}", age=since)]
    if known.probe_running:
        parts.append(say(language, "ops.probe.running"))
    elif known.probe_at is not None:
        since, took = age(view.now - known.probe_at, language), seconds(known.probe_seconds or 0.0)
        label = known.label and say(language, f"label.{known.label}")
        parts.append(say(language, "ops.probe.last", age=since, seconds=took, label=label or "–"))
    return escape(" · ".join(parts))


def _memory(view: View, language: Language) -> str:
    own = _bytes(view.resources.process_memory)
    limit = say(language, f"ops.memory.{view.resources.memory_by}", use=_use(view.resources.memory))
    return say(language, "ops.memory.text", own=own, limit=limit)


# ---- the last hour ---------------------------------------------------------------------------------------


def _plots(view: View, language: Language) -> str:
    """Return a band for the state, and figures for latency, queue, requests, memory and evidence."""
    minutes = _minutes(view)
    times = [say(language, "ops.time.ago", minutes=past) for past in (minutes, minutes // 2)]
    times.append(say(language, "ops.time.now"))
    maxima = partial(_points, view, minutes * POINTS_A_MINUTE, max)
    per_minute = partial(_points, view, minutes, sum)

    def title(name: str) -> str:
        return say(language, f"ops.plot.{name}")

    def plot(name: str, unit: Callable[[float], str], least: float, *lines: Line) -> str:
        return figure(title(name), lines, times=times, unit=unit, least=least)

    memory = [Line(title("process"), 1, maxima("process_memory"))]
    if view.resources.gpu is not None:
        memory.append(Line(title("gpu"), 2, maxima("gpu_memory")))
    latency = [Line("p50", 1, maxima("p50")), Line("p95", 2, maxima("p95"))]
    counts = [Line(title("ended"), 1, per_minute("ended")), Line(title("failed"), 3, per_minute("failed"))]
    return (
        _strip(view, language)
        + plot("latency", lambda s: f"{seconds(s)} s", 0.1, *latency)
        + plot("queue", _whole, 5, Line(title("waiting"), 1, maxima("depth")))
        + plot("requests", _whole, 5, *counts)
        + plot("memory", _bytes, 100 * MEGABYTE, *memory)
        + plot("evidence", lambda s: f"{s:.0f} s", 10, Line(title("age"), 1, maxima("evidence_age")))
    )


def _minutes(view: View) -> int:
    """Return the minutes since the oldest sample, an hour at most; even, for a whole minute in the middle."""
    oldest = view.now - view.samples[0].at if view.samples else 0.0
    return 2 * max(1, math.ceil(min(oldest, SPAN) / 120))


def _points(view: View, count: int, join: Callable[[Sequence[float]], float], value: str) -> Points:
    """Return ``count`` points of the samples' attribute ``value``."""
    return bucketed(
        *(view.samples, lambda one: view.now - one.at, attrgetter(value)),
        span=60 * _minutes(view),
        count=count,
        join=join,
    )


def _strip(view: View, language: Language) -> str:
    """Return the state over time as a band: healthy, loading, or unhealthy."""
    ranks = ("healthy", "loading", "unhealthy")
    minutes = _minutes(view)
    points = bucketed(
        *(view.samples, lambda one: view.now - one.at, lambda one: ranks.index(_rank(one))),
        span=60 * minutes,
        count=minutes * POINTS_A_MINUTE,
    )
    bars, place = [], 0
    for rank, stretch in groupby(points):
        width = len(list(stretch))
        if rank is not None:
            bars.append(
                f'<rect class="ops-band-{ranks[int(rank)]}" x="{place}" width="{width}" height="10"/>'
            )
        place += width
    title = say_html(language, "ops.plot.state")
    return (
        f'<figure class="plot plot-wide"><figcaption><strong>{title}</strong></figcaption>'
        f'<svg class="ops-band" viewBox="0 0 {len(points)} 10" preserveAspectRatio="none" role="img" '
        f'aria-label="{title}">{"".join(bars)}</svg></figure>'
    )


def _rank(sample: Sample) -> str:
    if sample.state.phase in (Phase.UNINITIALIZED, Phase.LOADING):
        return "loading"
    healthy = sample.state.phase == Phase.LOADED and sample.state.inference == "success"
    return "healthy" if healthy else "unhealthy"


# ---- lists -----------------------------------------------------------------------------------------------


def findings(found: Sequence[Finding] | None, language: Language) -> str:
    """Return the doctor's findings; None means that no doctor runs."""
    if not found:
        return _nothing(language, "findings.none" if found is not None else "findings.off")
    return "".join(_finding(one, language) for one in found)


def _finding(one: Finding, language: Language) -> str:
    words = one.text(language)
    kind = "resolved" if one.resolved else one.severity
    notes = [say(language, f"ops.findings.{kind}")]
    if one.since:
        notes.append(one.since if one.since == one.until else f"{one.since} – {one.until}")
    return (
        f'<article class="finding finding-{kind}"><h3>{escape(words.title)}</h3>'
        f'<p class="ops-note">{escape(" · ".join(notes))}</p><p>{escape(words.diagnosis)}</p>'
        f"<p><strong>{escape(words.fix)}</strong></p><pre>{escape(chr(10).join(one.evidence))}</pre></article>"
    )


def _restarts(found: Sequence[Restart], language: Language) -> str:
    if not found:
        return _nothing(language, "restarts.none")
    word = _words(language)
    return "".join(
        f'<p class="restart restart-{one.level.lower()}"><time>{escape(one.when)}</time> '
        f"<b>{word(f'restart.{one.kind}')}</b> "
        f"<code>[{one.level}] {escape(one.text)}</code></p>"
        for one in found
    )


def _changes(found: Sequence[Change], language: Language) -> str:
    if not found:
        return _nothing(language, "changes.none")
    rows = []
    for one in found:
        device = device_name(one.state.device) or "–"
        note = say(language, "state.degraded", device=device) if one.state.degraded else ""
        rows.append((_clock(one.unix), one.state.phase, one.state.inference, device, note))
    return _table(("time", "model", "inference", "device", "remark"), rows, language)


def _requests(found: Sequence[Ended], language: Language) -> str:
    if not found:
        return _nothing(language, "requests.none")
    return _table(
        ("time", "id", "source", "outcome", "duration", "picture", "text", "device"),
        (_request(one, language) for one in found),
        language,
    )


def _request(one: Ended, language: Language) -> tuple[str, ...]:
    width, height = one.size
    return (
        _clock(one.unix),
        one.id,
        one.source,
        _outcome(one, language),
        f"{seconds(one.seconds)} s",
        f"{width}×{height}" if width else "–",
        str(one.chars),
        device_name(one.device) or "–",
    )


def _outcome(one: Ended, language: Language) -> str:
    """Return the verdict's label, else the outcome; an unknown code unchanged."""
    key = f"label.{one.label}" if one.label else f"ops.outcome.{one.outcome}"
    return say(language, key) if has(key) else one.outcome


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]], language: Language) -> str:
    word = _words(language)
    head = "".join(f'<th scope="col">{word(f"column.{name}")}</th>' for name in columns)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return (
        f'<div class="ops-table" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _nothing(language: Language, key: str) -> str:
    return f'<p class="ops-note">{_words(language)(key)}</p>'


# ---- figures ---------------------------------------------------------------------------------------------


def age(duration: float, language: Language) -> str:
    """Format a duration in seconds: 12 s, 5 min, 3 h 20 min, 2 d 4 h."""
    whole = max(0, int(duration))
    if whole < 120:
        return say(language, "ops.age.seconds", s=whole)
    if whole < 7200:
        return say(language, "ops.age.minutes", m=whole // 60)
    if whole < 172_800:
        return say(language, "ops.age.hours", h=whole // 3600, m=whole % 3600 // 60)
    return say(language, "ops.age.days", d=whole // 86_400, h=whole % 86_400 // 3600)


def _clock(unix: float) -> str:
    """Format a time in the machine's time zone, as in its logs."""
    return time.strftime("%m-%d %H:%M:%S", time.localtime(unix))


def _joined(*facts: str) -> str:
    """Join the non-empty facts, escaped."""
    return escape(" · ".join(filter(None, facts))) or "–"


def _use(use: Use | None) -> str:
    return "–" if use is None else f"{_bytes(use.used)} / {_bytes(use.total)} ({100 * use.share:.0f}%)"


def _bytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / MEGABYTE:.3g} MB"


def _whole(value: float) -> str:
    return f"{value:g}"


def _words(language: Language) -> Callable[[str], str]:
    """Return a function from a key under ``ops.`` to its text as HTML."""
    return lambda key: say_html(language, f"ops.{key}")

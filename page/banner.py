"""The HTML of the status line at the top of the page."""

from __future__ import annotations

from html import escape

from page import pending
from page.verdicts import device_name
from page.words import Language, say_html
from service.contract.causes import Refusal
from service.contract.status import Phase, Progress, Snapshot

MEGABYTE = 1_000_000

STATES = {
    Phase.UNINITIALIZED: "loading",
    Phase.LOADING: "loading",
    Phase.LOADED: "ready",
    Phase.FAILED: "failed",
    Phase.STOPPING: "stopping",
}


def state_of(snapshot: Snapshot) -> str:
    """Return the state: loading, ready, degraded, failed, stopping or no_instance."""
    state = STATES[snapshot.phase]
    if state == "ready" and snapshot.activity.refusal in (Refusal.LOADING, Refusal.NO_INSTANCE):
        return str(snapshot.activity.refusal)  # of the engine behind --engine
    return "degraded" if state == "ready" and snapshot.degraded else state


def state_html(snapshot: Snapshot, language: Language) -> str:
    """Return the state as HTML."""
    return say_html(language, f"state.{state_of(snapshot)}", device=device_name(snapshot.device))


def render(snapshot: Snapshot, language: Language) -> str:
    """Return the line's HTML."""
    state = state_of(snapshot)
    parts = [f'<strong class="state-word">{state_html(snapshot, language)}</strong>']
    if state in ("ready", "degraded"):
        parts.append(f'<span class="state-facts">{escape(_facts(snapshot))}</span>')
        if waiting := pending.queue(snapshot.activity, language):
            parts.append(f'<span class="state-queue">{escape(waiting)}</span>')
    if state == "loading":
        parts.append(_progress(snapshot.progress, language))
    if state != "ready":
        parts.append(f'<span class="state-do">{say_html(language, f"state.{state}.do")}</span>')
    return _line(state, "".join(parts))


def lost(language: Language) -> str:
    """Return the line that the browser shows when the server is unreachable."""
    title = f'<strong class="state-word">{say_html(language, "state.lost")}</strong>'
    return _line("lost", f'{title}<span class="state-do">{say_html(language, "state.lost.do")}</span>')


def _line(state: str, inner: str) -> str:
    return f'<div class="state state-{state}"><span class="state-dot" aria-hidden="true"></span>{inner}</div>'


def _facts(snapshot: Snapshot) -> str:
    facts = (snapshot.model, device_name(snapshot.device), snapshot.dtype)
    return " · ".join(fact for fact in facts if fact)


def _progress(progress: Progress, language: Language) -> str:
    if progress.total_bytes <= 0:
        return '<progress class="state-bar"></progress>'
    done = min(progress.done_bytes, progress.total_bytes)
    share = 100 * done // progress.total_bytes
    downloaded = say_html(
        language,
        "state.progress",
        done=f"{done / MEGABYTE:.1f}",
        total=f"{progress.total_bytes / MEGABYTE:.1f}",
    )
    return (
        f'<progress class="state-bar" max="100" value="{share}"></progress>'
        f'<span class="state-facts" aria-hidden="true">{share}% · {downloaded}</span>'
    )

"""The queue position and the estimated wait, for a pending request and for the status line: plain text.

All figures are the engine's. Until it has measured a request, no time is shown.
"""

from __future__ import annotations

import math
from typing import Final

from page.words import Language, say
from service.contract.request import QueueEstimate
from service.contract.status import Activity

MIN_LATE_SECONDS: Final = 2.0


def estimate(queue_estimate: QueueEstimate | None, language: Language, *, limit: float) -> str:
    """Return what is known of a pending answer. ``queue_estimate`` is None while the request is being read;
    ``limit`` is the time limit in seconds."""
    parts = []
    if queue_estimate is not None:
        if queue_estimate.ahead:
            parts.append(_count("pending.ahead", queue_estimate.ahead, language))
        if queue_estimate.seconds is not None:
            parts.append(wait(min(queue_estimate.seconds, limit), language))
    return " · ".join(parts)


def late_after(queue_estimate: QueueEstimate | None) -> float | None:
    """Return the seconds to wait between ``estimate`` and ``late``; None without an estimate."""
    if queue_estimate is None or queue_estimate.seconds is None:
        return None
    return max(MIN_LATE_SECONDS, queue_estimate.seconds)


def late(language: Language, *, limit: float) -> str:
    """Return what to say of an answer that takes longer than estimated."""
    return say(language, "pending.late", limit=f"{limit:g}")


def queue(activity: Activity, language: Language) -> str:
    """Return the queue's length and the wait of a new request, as plain text; "" for an empty queue."""
    if not activity.depth or activity.not_cancelling:
        return ""
    if activity.full:
        again = say(language, "none.busy.do", seconds=math.ceil(activity.retry_after))
        return f"{say(language, 'none.busy')} {again}"
    parts = [_count("queue.waiting", activity.depth, language)]
    if activity.expected_seconds is not None:
        parts.append(wait(activity.expected_seconds, language))
    return " · ".join(parts)


def about(duration: float, language: Language) -> str:
    """Format an estimated duration: whole seconds, from 10 s in steps of 5, from 90 s in minutes."""
    if duration >= 90:
        return say(language, "about.minutes", m=round(duration / 60))
    whole = max(1, round(duration)) if duration < 10 else 5 * round(duration / 5)
    return say(language, "about.seconds", s=whole)


def wait(duration: float, language: Language) -> str:
    """Return the estimated wait as plain text."""
    return say(language, "queue.wait", about=about(duration, language))


def _count(key: str, count: int, language: Language) -> str:
    return say(language, f"{key}.{'one' if count == 1 else 'many'}", count=count)

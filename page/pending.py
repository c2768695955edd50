"""What a person is told while an answer is awaited, and before they ask when others wait already.

All figures are the engine's own: how many are ahead, and in how many seconds it expects to answer, by the
forecast where one was learnt and else by the moving average. While it knows nothing, nothing is said of time.
"""

from __future__ import annotations

import math
from html import escape
from typing import Final

from page.words import Language, say
from service.contract.request import QueueEstimate
from service.contract.status import Activity

LEAST_PATIENCE: Final = 2.0  # seconds


def card(queue_estimate: QueueEstimate | None, language: Language, *, limit: float) -> str:
    """Return the HTML shown in the answer's place. ``queue_estimate`` is None while the request is being
    read; ``limit`` is the time limit in seconds."""
    told = []
    if queue_estimate is not None:
        if queue_estimate.ahead:
            told.append(_count("pending.ahead", queue_estimate.ahead, language))
        if queue_estimate.seconds is not None:
            told.append(about(min(queue_estimate.seconds, limit), language))
    return _card(" · ".join(told), language)


def patience(queue_estimate: QueueEstimate | None) -> float | None:
    """How many seconds after ``card`` it is time for ``late``; None where no time was told."""
    if queue_estimate is None or queue_estimate.seconds is None:
        return None
    return max(LEAST_PATIENCE, queue_estimate.seconds)


def late(language: Language, *, limit: float) -> str:
    """The HTML once it takes about twice as long as was told."""
    return _card(say(language, "pending.late", limit=f"{limit:g}"), language)


def queue(activity: Activity, language: Language) -> str:
    """Who waits, and what that means for a question asked now, in plain text; "" while nobody does."""
    if not activity.depth or activity.not_cancelling:
        return ""
    if activity.full:
        again = say(language, "none.busy.do", seconds=math.ceil(activity.retry_after))
        return f"{say(language, 'none.busy')} {again}"
    told = [_count("queue.waiting", activity.depth, language)]
    if activity.expected_seconds is not None:
        told.append(say(language, "queue.answer", about=about(activity.expected_seconds, language)))
    return " · ".join(told)


def about(duration: float, language: Language) -> str:
    """A duration that is not known exactly: whole seconds, from 10 on in steps of 5, from 90 on minutes."""
    if duration >= 90:
        return say(language, "about.minutes", m=round(duration / 60))
    whole = max(1, round(duration)) if duration < 10 else 5 * round(duration / 5)
    return say(language, "about.seconds", s=whole)


def _count(key: str, count: int, language: Language) -> str:
    return say(language, f"{key}.{'one' if count == 1 else 'many'}", count=count)


def _card(told: str, language: Language) -> str:
    text = f"<p>{escape(told)}</p>" if told else ""
    return (
        '<section class="answer answer-pending" role="status"><div class="answer-head">'
        '<span class="pending-dots" aria-hidden="true"><i></i><i></i><i></i></span>'
        f"<div><h3>{escape(say(language, 'pending.title'))}</h3>{text}</div></div></section>"
    )

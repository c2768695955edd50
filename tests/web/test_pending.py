"""Queue position and estimated wait: the engine's figures, rounded, and nothing where there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest

from page import banner, pending
from page.words import LANGUAGES, Language, say
from service.contract.causes import Refusal
from service.contract.request import QueueEstimate
from service.contract.status import Activity
from tests.web.application import READY, STATES


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("queue_estimate", "ahead", "seconds"),
    [
        (None, None, None),
        (QueueEstimate(0), None, None),
        (QueueEstimate(0, 2.2), None, 2),
        (QueueEstimate(1, 4.0), "one", 4),
        (QueueEstimate(3, 6.1), "many", 6),
        (QueueEstimate(2), "many", None),
        (QueueEstimate(0, 80.0), None, 15),  # never more than the time limit
    ],
)
def test_a_pending_answer_has_its_queue_position_and_estimated_wait(
    queue_estimate: QueueEstimate | None, ahead: str | None, seconds: int | None, language: Language
) -> None:
    parts = []
    if queue_estimate and ahead:
        parts.append(say(language, f"pending.ahead.{ahead}", count=queue_estimate.ahead))
    if seconds:
        parts.append(say(language, "queue.wait", about=say(language, "about.seconds", s=seconds)))
    assert pending.estimate(queue_estimate, language, limit=15.0) == " · ".join(parts)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "about 1 s"),
        (0.04, "about 1 s"),
        (1.4, "about 1 s"),
        (9.4, "about 9 s"),
        (11.0, "about 10 s"),
        (13.0, "about 15 s"),
        (89.0, "about 90 s"),
        (90.0, "about 2 min"),
        (600.0, "about 10 min"),
    ],
)
def test_an_estimated_time_is_rounded(seconds: float, shown: str) -> None:
    assert pending.about(seconds, "en") == shown


@pytest.mark.parametrize("language", LANGUAGES)
def test_an_answer_is_late_after_its_estimate_and_never_without_one(language: Language) -> None:
    assert pending.late_after(None) is None
    assert pending.late_after(QueueEstimate(3)) is None
    assert pending.late_after(QueueEstimate(3, 6.0)) == 6.0
    assert pending.late_after(QueueEstimate(0, 0.01)) == pending.MIN_LATE_SECONDS
    assert pending.late(language, limit=15.0) == say(language, "pending.late", limit=15)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("activity", "keys"),
    [
        (Activity(computing=1, expected_seconds=2.0), []),
        (STATES["queue"].activity, ["queue.waiting.many", "queue.wait"]),
        (Activity(depth=1, capacity=9), ["queue.waiting.one"]),
        (
            Activity(depth=5, refusal=Refusal.TOO_LATE, expected_seconds=40.0, retry_after=12.0),
            ["none.busy", "none.busy.do"],
        ),
        (Activity(depth=3, capacity=9, not_cancelling=True, expected_seconds=2.0), []),
    ],
)
def test_the_status_line_shows_the_queue_and_its_estimated_wait(
    activity: Activity, keys: list[str], language: Language
) -> None:
    about = pending.about(activity.expected_seconds or 0.0, language)
    values = {"count": activity.depth, "about": about, "seconds": 12}
    separator = " " if activity.full else " · "
    assert pending.queue(activity, language) == separator.join(say(language, key, **values) for key in keys)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_status_line_mentions_a_queue_only_while_there_is_one(language: Language) -> None:
    assert "state-queue" not in banner.render(READY, language)
    assert "state-queue" in banner.render(STATES["queue"], language)
    assert "state-queue" in banner.render(replace(STATES["queue"], degraded="computing on the CPU"), language)

"""What is said while an answer is awaited: the engine's figures, rounded, and nothing that is not known."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from page import banner, pending
from page.words import LANGUAGES, Language
from service.contract.causes import Refusal
from service.contract.request import QueueEstimate
from service.contract.status import Activity
from tests.web.application import READY, STATES


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html)).strip()


@pytest.mark.parametrize(
    ("queue_estimate", "english", "chinese"),
    [
        (None, "Handlers …", "正在判断……"),
        (QueueEstimate(0), "Handlers …", "正在判断……"),
        (QueueEstimate(0, 2.2), "Handlers … about 2 s", "正在判断…… 大约 2 秒"),
        (
            QueueEstimate(1, 4.0),
            "Handlers … 1 request is ahead of yours · about 4 s",
            "正在判断…… 前面还有 1 个请求 · 大约 4 秒",
        ),
        (
            QueueEstimate(3, 6.1),
            "Handlers … 3 requests are ahead of yours · about 6 s",
            "正在判断…… 前面还有 3 个请求 · 大约 6 秒",
        ),
        (QueueEstimate(2), "Handlers … 2 requests are ahead of yours", "正在判断…… 前面还有 2 个请求"),
        (QueueEstimate(0, 80.0), "Handlers … about 15 s", "正在判断…… 大约 15 秒"),
    ],
)
def test_who_waits_is_told_how_many_are_ahead_and_about_how_long_it_takes(
    queue_estimate: QueueEstimate | None, english: str, chinese: str
) -> None:
    assert text_of(pending.card(queue_estimate, "en", limit=15.0)) == english
    assert text_of(pending.card(queue_estimate, "zh", limit=15.0)) == chinese


def test_a_card_that_waits_is_no_answer() -> None:
    html = pending.card(QueueEstimate(0, 2.0), "en", limit=15.0)
    assert 'class="answer answer-pending" role="status"' in html


@pytest.mark.parametrize(
    ("seconds", "told"),
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
def test_a_time_that_is_not_known_exactly_is_not_told_exactly(seconds: float, told: str) -> None:
    assert pending.about(seconds, "en") == told


def test_patience_ends_at_about_twice_what_was_told_and_only_where_something_was() -> None:
    assert pending.patience(None) is None
    assert pending.patience(QueueEstimate(3)) is None
    assert pending.patience(QueueEstimate(3, 6.0)) == 6.0
    assert pending.patience(QueueEstimate(0, 0.01)) == pending.LEAST_PATIENCE
    assert "15 seconds" in text_of(pending.late("en", limit=15.0))
    assert "15 秒" in text_of(pending.late("zh", limit=15.0))


@pytest.mark.parametrize(
    ("activity", "english", "chinese"),
    [
        (Activity(computing=1, expected_seconds=2.0), "", ""),
        (
            STATES["queue"].activity,
            "3 requests are waiting · an answer takes about 6 s",
            "有 3 个请求在等待 · 现在提问，大约 6 秒后得到回答",
        ),
        (Activity(depth=1, capacity=9), "1 request is waiting", "有 1 个请求在等待"),
        (
            Activity(depth=5, refusal=Refusal.TOO_LATE, expected_seconds=40.0, retry_after=12.0),
            "Too many requests are waiting. Try again in about 12 seconds.",
            "排队的请求太多了。 请在大约 12 秒后再试。",
        ),
        (Activity(depth=3, capacity=9, not_cancelling=True, expected_seconds=2.0), "", ""),
    ],
)
def test_a_queue_is_told_before_anybody_asks(activity: Activity, english: str, chinese: str) -> None:
    assert pending.queue(activity, "en") == english
    assert pending.queue(activity, "zh") == chinese


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_line_at_the_top_tells_of_a_queue_and_of_none(language: Language) -> None:
    assert "state-queue" not in banner.render(READY, language)
    assert "state-queue" in banner.render(STATES["queue"], language)
    assert "state-queue" in banner.render(replace(STATES["queue"], degraded="computing on the CPU"), language)

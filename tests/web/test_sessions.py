"""The bounded sessions of Gradio's queue."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from page.sessions import MAX_SESSIONS, AlreadyRead, Sessions


@pytest.fixture
def queue() -> Any:
    """The parts of Gradio's queue that Sessions replaces."""
    return SimpleNamespace(
        pending_messages_per_session={}, pending_event_ids_session={}, event_ids_to_events={}
    )


def join(queue: Any, session: str, *, done: bool = True) -> None:
    """Add a session with messages and one event, as Gradio does."""
    queue.pending_messages_per_session[session] = []
    queue.pending_event_ids_session[session] = {f"event of {session}"}
    if not done:
        queue.event_ids_to_events[f"event of {session}"] = object()


def test_only_unused_sessions_are_evicted(queue: Any) -> None:
    sessions = Sessions(queue)
    join(queue, "old")
    join(queue, "asked", done=False)
    join(queue, "read")
    with sessions.reading("read"):
        for number in range(2 * MAX_SESSIONS):
            join(queue, f"another {number}")
        for kept in (queue.pending_messages_per_session, queue.pending_event_ids_session):
            assert len(kept) == MAX_SESSIONS
            assert [name in kept for name in ("old", "asked", "read")] == [False, True, True]


def test_sessions_in_use_may_exceed_the_bound(queue: Any) -> None:
    Sessions(queue)
    for number in range(MAX_SESSIONS + 5):
        join(queue, str(number), done=False)
    assert len(queue.pending_messages_per_session) == MAX_SESSIONS + 5
    queue.event_ids_to_events.clear()
    join(queue, "one more")
    assert len(queue.pending_messages_per_session) == MAX_SESSIONS


def test_a_session_has_one_reader_and_is_dropped_when_all_answers_were_delivered(queue: Any) -> None:
    sessions = Sessions(queue)
    join(queue, "a")
    with sessions.reading("a"), pytest.raises(AlreadyRead), sessions.reading("a"):
        pass
    assert "a" in queue.pending_messages_per_session, "its answer was not delivered"
    with sessions.reading("a"):
        queue.pending_event_ids_session["a"].clear()
    assert "a" not in queue.pending_messages_per_session
    assert "a" not in queue.pending_event_ids_session

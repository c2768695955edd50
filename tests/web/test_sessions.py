"""What Gradio's queue remembers of its callers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from page.sessions import MOST, AlreadyRead, Sessions


@pytest.fixture
def queue() -> Any:
    """As Gradio's, as far as it is taken over."""
    return SimpleNamespace(
        pending_messages_per_session={}, pending_event_ids_session={}, event_ids_to_events={}
    )


def join(queue: Any, session: str, *, done: bool = True) -> None:
    """As Gradio does it: a session has messages, and events that are done or not."""
    queue.pending_messages_per_session[session] = []
    queue.pending_event_ids_session[session] = {f"event of {session}"}
    if not done:
        queue.event_ids_to_events[f"event of {session}"] = object()


def test_of_many_sessions_those_are_forgotten_that_nobody_waits_for(queue: Any) -> None:
    sessions = Sessions(queue)
    join(queue, "old")
    join(queue, "asked", done=False)
    join(queue, "read")
    with sessions.reading("read"):
        for number in range(2 * MOST):
            join(queue, f"another {number}")
        for kept in (queue.pending_messages_per_session, queue.pending_event_ids_session):
            assert len(kept) == MOST
            assert [name in kept for name in ("old", "asked", "read")] == [False, True, True]


def test_when_all_are_waited_for_none_is_forgotten(queue: Any) -> None:
    Sessions(queue)
    for number in range(MOST + 5):
        join(queue, str(number), done=False)
    assert len(queue.pending_messages_per_session) == MOST + 5
    queue.event_ids_to_events.clear()
    join(queue, "one more")
    assert len(queue.pending_messages_per_session) == MOST


def test_a_session_has_one_reader_and_is_forgotten_when_all_was_given(queue: Any) -> None:
    sessions = Sessions(queue)
    join(queue, "a")
    with sessions.reading("a"), pytest.raises(AlreadyRead), sessions.reading("a"):
        pass
    assert "a" in queue.pending_messages_per_session, "its answer was not given"
    with sessions.reading("a"):
        queue.pending_event_ids_session["a"].clear()
    assert "a" not in queue.pending_messages_per_session
    assert "a" not in queue.pending_event_ids_session

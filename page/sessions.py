"""The sessions of Gradio's queue: one reader each, bounded, never evicted while in use.

Clients choose the session's name. Gradio keeps 2,000 and evicts the oldest, even one with a pending answer;
it never evicts the lists of events; a second read of delivered answers blocks forever; concurrent readers
each get a part of the answers.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gradio.queueing import Queue

MAX_SESSIONS: Final = 2000


class AlreadyRead(Exception):
    """Another connection already reads this session's answers."""


class Sessions:
    """Replaces the stores of ``queue``. Use in the event loop only."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._being_read: set[str] = set()
        queue.pending_messages_per_session = _Bounded(self._in_use)  # type: ignore[assignment]
        queue.pending_event_ids_session = _Bounded(self._in_use)

    @contextmanager
    def reading(self, session: str) -> Iterator[None]:
        """Register a reader; at the end, drop a session without open answers. Raises AlreadyRead."""
        if session in self._being_read:
            raise AlreadyRead
        self._being_read.add(session)
        try:
            yield
        finally:
            self._being_read.discard(session)
            if not self._queue.pending_event_ids_session.get(session):
                self._queue.pending_messages_per_session.pop(session, None)
                self._queue.pending_event_ids_session.pop(session, None)

    def _in_use(self, session: str) -> bool:
        """Whether the session has a reader or an unfinished event."""
        events = self._queue.pending_event_ids_session.get(session, ())
        return session in self._being_read or any(
            event in self._queue.event_ids_to_events for event in events
        )


class _Bounded(OrderedDict[str, Any]):
    """Evicts the oldest unused entry above MAX_SESSIONS; entries in use may exceed it."""

    def __init__(self, in_use: Callable[[str], bool]) -> None:
        super().__init__()
        self._in_use = in_use

    def __setitem__(self, session: str, value: Any) -> None:
        while session not in self and len(self) >= MAX_SESSIONS:
            oldest = next((name for name in self if not self._in_use(name)), None)
            if oldest is None:
                break
            del self[oldest]
        super().__setitem__(session, value)

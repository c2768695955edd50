"""The sessions of Gradio's queue: who reads their answers, and which of them may be forgotten.

A session is whatever name a caller makes up. Gradio remembers 2,000 and forgets the oldest, also one whose
answer is awaited; it never forgets the lists of their events; who asks again for answers that were given
waits for ever; and of several readers each gets a part.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gradio.queueing import Queue

MOST: Final = 2000


class HasReader(Exception):
    """Somebody reads this session's answers already."""


class Sessions:
    """Takes over what ``queue`` remembers. All of it happens in the event loop."""

    def __init__(self, queue: Queue) -> None:
        self._queue = queue
        self._read: set[str] = set()
        queue.pending_messages_per_session = _Kept(self._in_use)  # type: ignore[assignment]
        queue.pending_event_ids_session = _Kept(self._in_use)

    @contextmanager
    def reading(self, session: str) -> Iterator[None]:
        """While somebody reads the session's answers. It is forgotten once all were given.

        Raises HasReader.
        """
        if session in self._read:
            raise HasReader
        self._read.add(session)
        try:
            yield
        finally:
            self._read.discard(session)
            if not self._queue.pending_event_ids_session.get(session):
                self._queue.pending_messages_per_session.pop(session, None)
                self._queue.pending_event_ids_session.pop(session, None)

    def _in_use(self, session: str) -> bool:
        """Whether there is a reader, or an event that is not done."""
        events = self._queue.pending_event_ids_session.get(session, ())
        return session in self._read or any(event in self._queue.event_ids_to_events for event in events)


class _Kept(OrderedDict[str, Any]):
    """Keeps ``MOST``, and more only while they are in use; the oldest goes first."""

    def __init__(self, in_use: Callable[[str], bool]) -> None:
        super().__init__()
        self._in_use = in_use

    def __setitem__(self, session: str, value: Any) -> None:
        while session not in self and len(self) >= MOST:
            oldest = next((name for name in self if not self._in_use(name)), None)
            if oldest is None:
                break
            del self[oldest]
        super().__setitem__(session, value)

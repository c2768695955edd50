"""How many sessions Gradio's queue remembers, and which of them it may forget.

A session is whatever name a caller makes up. Gradio forgets the oldest beyond 2,000, also one whose answer is
awaited, and never forgets the lists of their events. Here those are forgotten that nobody waits for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from gradio.queueing import Queue

MOST: Final = 2000


class Sessions(OrderedDict[str, Any]):
    """Keeps ``MOST``, and more only while ``in_use`` speaks for them; the oldest goes first."""

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


def bound(queue: Queue, has_reader: Callable[[str], bool]) -> None:
    """Bound what ``queue`` remembers, but for sessions with a reader or with an event that is not done."""

    def in_use(session: str) -> bool:
        events = queue.pending_event_ids_session.get(session, ())
        return has_reader(session) or any(event in queue.event_ids_to_events for event in events)

    queue.pending_messages_per_session = Sessions(in_use)  # type: ignore[assignment]
    queue.pending_event_ids_session = Sessions(in_use)

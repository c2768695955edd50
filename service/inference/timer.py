"""The loop of the engine's timer thread: deadlines and the watchdog's heartbeat."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Final

from service.contract.events import Listener

BEAT_SECONDS: Final = 1.0


class Timer:
    """Calls ``tick`` whenever it is due, with no lock held.

    ``due`` returns when that is next, infinity while nothing is pending; ``ended`` whether the loop should
    end. Both are called with ``lock`` held, and again after ``changed`` is notified.
    """

    def __init__(
        self,
        lock: threading.Lock,
        *,
        tick: Callable[[], None],
        due: Callable[[], float],
        ended: Callable[[], bool],
        events: Listener,
        clock: Callable[[], float],
    ) -> None:
        self.changed = threading.Condition(lock)
        self._tick = tick
        self._due = due
        self._ended = ended
        self._events = events
        self._clock = clock
        self._beat: Callable[[], None] | None = None

    def keep_heartbeat(self, beat: Callable[[], None]) -> None:
        """Call ``beat`` every BEAT_SECONDS as well, with no lock held."""
        with self.changed:
            self._beat = beat
            self.changed.notify_all()

    def run(self) -> None:
        while True:
            pause = 0.0
            try:
                if self._beat is not None:
                    self._beat()
                self._tick()
            except Exception as error:  # one bug must not end all deadlines
                self._events.broken("exception in the deadline timer", error)
                pause = 0.1
            with self.changed:
                if self._ended():
                    return
                wait = max(self._due() - self._clock(), pause)
                if self._beat is not None:
                    wait = min(wait, BEAT_SECONDS)
                self.changed.wait(None if math.isinf(wait) else wait)

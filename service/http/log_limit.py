"""Rate limit for log lines that any client can cause."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class LogLimit:
    """Allows one line per ``seconds``. Safe to call from any thread."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._last: float | None = None
        self._suppressed = 0

    def admit(self) -> int | None:
        """Return how many lines were suppressed since the last one, or None if this one must be, too."""
        with self._lock:
            now = self._clock()
            if self._last is not None and now - self._last < self._seconds:
                self._suppressed += 1
                return None
            suppressed, self._last, self._suppressed = self._suppressed, now, 0
            return suppressed

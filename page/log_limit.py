"""Lines that strangers can cause are written now and then, and counted meanwhile."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class LogLimit:
    """Allows one line each ``seconds``. Safe to call from any thread."""

    def __init__(self, seconds: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._clock = clock
        self._lock = threading.Lock()  # guards the two below
        self._last: float | None = None
        self._suppressed = 0

    def allows(self) -> bool:
        """Whether a line may be written now; one that may not is counted."""
        with self._lock:
            now = self._clock()
            if self._last is not None and now - self._last < self._seconds:
                self._suppressed += 1
                return False
            self._last = now
            return True

    def suppressed(self) -> int:
        """How many were not written since this was asked last."""
        with self._lock:
            count, self._suppressed = self._suppressed, 0
            return count

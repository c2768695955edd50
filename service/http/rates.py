"""Requests of a key in any 60 seconds, by the moving window of ``limits`` over a monotonic clock."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage, Storage
from limits.strategies import MovingWindowRateLimiter

from service.api_keys import Key


class Rates:
    """The counts of all keys. Safe to call from any thread."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._window = _Window(clock)
        self._limiter = MovingWindowRateLimiter(self._window)
        self._lock = threading.Lock()  # makes the test and the wait one step

    def hit(self, key: Key, cost: int) -> float:
        """Count ``cost`` requests and return 0; or count none and return the seconds until they fit."""
        item = RateLimitItemPerMinute(key.per_minute)
        with self._lock:
            if self._limiter.hit(item, key.name, cost=cost):
                return 0.0
            wait = self._window.wait(item.key_for(key.name), item.amount, item.get_expiry(), cost)
            return max(wait, 0.001)  # the clock may have moved between the two

    def wait(self, key: Key, cost: int) -> float:
        """Return the seconds until ``cost`` requests fit; 0 if they do now."""
        item = RateLimitItemPerMinute(key.per_minute)
        with self._lock:
            return self._window.wait(item.key_for(key.name), item.amount, item.get_expiry(), cost)


class _Window(MemoryStorage):
    """The library's storage reads the wall clock, which may jump, and starts threads."""

    def __init__(self, clock: Callable[[], float]) -> None:
        Storage.__init__(self)
        self._clock = clock
        self._times: dict[str, deque[float]] = {}  # the oldest first

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        if self.wait(key, limit, expiry, amount) > 0:
            return False
        self._times.setdefault(key, deque()).extend([self._clock()] * amount)
        return True

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        times = self._within(key, expiry)
        return (times[0] if times else self._clock()), len(times)

    def wait(self, key: str, limit: int, expiry: int, amount: int) -> float:
        """Return the seconds until ``amount``, at most ``limit``, fit; 0 if they do now."""
        times = self._within(key, expiry)
        if (over := len(times) + amount - limit) <= 0:
            return 0.0
        return times[over - 1] + expiry - self._clock()

    def _within(self, key: str, expiry: int) -> deque[float]:
        """Return the times in the window; forget older ones."""
        times = self._times.get(key, deque())
        while times and self._clock() - times[0] >= expiry:
            times.popleft()
        if not times:
            self._times.pop(key, None)
        return times

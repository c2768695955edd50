"""A capacity shared by all callers, with a limit for each."""

from __future__ import annotations

import queue
import threading
from collections import Counter


class QuotaExceeded(Exception):
    """The caller's own limit is reached."""


class NoCapacity(Exception):
    """The total is in use."""


class Quota:
    """``total`` units, at most ``per_caller`` of them held by one caller. Safe to call from any thread."""

    def __init__(self, total: int, per_caller: int) -> None:
        self.total = total
        self.per_caller = per_caller
        self._lock = threading.Lock()  # guards the two below
        self._held: Counter[str] = Counter()
        self._sum = 0
        self._released: queue.SimpleQueue[tuple[str, int]] = queue.SimpleQueue()

    def acquire(self, caller: str, amount: int) -> None:
        """Raises QuotaExceeded or NoCapacity; then nothing is acquired."""
        with self._lock:
            self._drain()
            if self._held[caller] + amount > self.per_caller:
                raise QuotaExceeded
            if self._sum + amount > self.total:
                raise NoCapacity
            self._held[caller] += amount
            self._sum += amount

    def release(self, caller: str, amount: int) -> None:
        with self._lock:
            self._release(caller, amount)

    def release_later(self, caller: str, amount: int) -> None:
        """Release before the next look at the quota. Takes no lock: for finalizers, which may run in a thread
        that holds it."""
        self._released.put((caller, amount))

    def used(self, caller: str | None = None) -> int:
        """Return the units held by ``caller``, or by all."""
        with self._lock:
            self._drain()
            return self._sum if caller is None else self._held.get(caller, 0)

    def _drain(self) -> None:
        """Release what finalizers handed in. Needs the lock."""
        while not self._released.empty():
            self._release(*self._released.get_nowait())

    def _release(self, caller: str, amount: int) -> None:
        self._sum -= amount
        self._held[caller] -= amount
        if not self._held[caller]:
            del self._held[caller]

"""Shares of something limited, by caller: none may take all of it."""

from __future__ import annotations

import threading
from collections import Counter


class ShareUsed(Exception):
    """The caller has its share already."""


class NoneLeft(Exception):
    """All callers together have everything there is."""


class Shares:
    """``total`` units, of which one caller holds at most ``share``. Safe to call from any thread."""

    def __init__(self, total: int, share: int) -> None:
        self.total = total
        self.share = share
        self._lock = threading.Lock()  # guards the two below
        self._held: Counter[str] = Counter()
        self._sum = 0

    def take(self, caller: str, amount: int) -> None:
        """Raises ShareUsed or NoneLeft, and takes nothing then."""
        with self._lock:
            if self._held[caller] + amount > self.share:
                raise ShareUsed
            if self._sum + amount > self.total:
                raise NoneLeft
            self._held[caller] += amount
            self._sum += amount

    def give(self, caller: str, amount: int) -> None:
        """Return what was taken."""
        with self._lock:
            self._sum -= amount
            self._held[caller] -= amount
            if not self._held[caller]:
                del self._held[caller]

    def used(self, caller: str | None = None) -> int:
        """Units held by ``caller``, or by all."""
        with self._lock:
            return self._sum if caller is None else self._held.get(caller, 0)

"""An absolute limit on the memory that this process and its readers hold, for what leaks slowly: empty the
caches, then restart.

Judged by every sample of the resources: over the limit once, the caches are emptied; over it in the next
sample still, the process is to drain and leave.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from service.contract.errors import MemoryLimitReached, ServiceError
from service.health.resources import Resources

_log = logging.getLogger(__name__)


class MemoryLimit:
    """``rss`` and ``gpu`` are bytes, 0 for no limit; ``held`` tells our reserved GPU memory."""

    def __init__(
        self,
        *,
        rss: int,
        gpu: int,
        held: Callable[[], int],
        empty_cache: Callable[[], None],
        on_reached: Callable[[ServiceError], None],
    ) -> None:
        self._rss = rss
        self._gpu = gpu
        self._held = held
        self._empty_cache = empty_cache
        self._on_reached = on_reached
        self._emptied = False
        self._reached = False

    def look(self, sample: Resources) -> None:
        """Judge one sample; called by one thread."""
        if self._reached or (over := self._over(sample)) is None:
            self._emptied = False
            return
        what, size, limit = over
        if not self._emptied:
            self._emptied = True
            _log.warning("MEMORY_LIMIT | OF=%s | USED=%d | LIMIT=%d | the caches are emptied", *over)
            self._empty_cache()
            return
        self._reached = True
        self._on_reached(
            MemoryLimitReached(
                f"The {what} memory is {size // 2**20} MiB, over the limit of {limit // 2**20} MiB, "
                "with the caches emptied."
            )
        )

    def _over(self, sample: Resources) -> tuple[str, int, int] | None:
        """What is over its limit, its size and the limit."""
        # A picture that is being read has a limit of its own, and is gone in seconds: no restart mends that,
        # and no one who sends large pictures shall cause one.
        resident = sample.process_memory - sample.reading_memory
        if self._rss and resident > self._rss:
            return "resident", resident, self._rss
        if self._gpu and (held := self._held()) > self._gpu:
            return "GPU", held, self._gpu
        return None

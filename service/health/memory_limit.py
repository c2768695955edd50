"""An absolute memory limit against slow leaks, for this process and its readers.

Checked with each resource sample: over the limit, the caches are emptied; still over it in the next sample,
the process drains and exits to be restarted.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from service.contract.errors import MemoryLimitReached, ServiceError
from service.health.resources import Resources

_log = logging.getLogger(__name__)


class MemoryLimit:
    """``rss`` and ``gpu`` are bytes, 0 for no limit; ``held`` returns the reserved GPU memory in bytes."""

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

    def check(self, sample: Resources) -> None:
        """Check one sample. Called by one thread."""
        if self._reached or (over := self._over(sample)) is None:
            self._emptied = False
            return
        what, size, limit = over
        if not self._emptied:
            self._emptied = True
            _log.warning("MEMORY_LIMIT | OF=%s | USED=%d | LIMIT=%d | ACTION=empty_caches", *over)
            self._empty_cache()
            return
        self._reached = True
        self._on_reached(
            MemoryLimitReached(
                f"The {what} memory is {size // 2**20} MiB, over the limit of {limit // 2**20} MiB, "
                "after the caches were emptied."
            )
        )

    def _over(self, sample: Resources) -> tuple[str, int, int] | None:
        """What is over its limit, its size and the limit, in bytes."""
        # Readers that are decoding have their own limit, so that large pictures cannot cause a restart.
        resident = sample.process_memory - sample.reading_memory
        if self._rss and resident > self._rss:
            return "resident", resident, self._rss
        if self._gpu and (held := self._held()) > self._gpu:
            return "GPU", held, self._gpu
        return None

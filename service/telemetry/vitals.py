"""A line a minute on how the process fares: what a later look needs to tell a leak, a jump of the clock or a
standstill from a quiet hour.

``UP`` is measured by a clock that no setting moves and ``UNIX`` by the one that people set, so the two part
when it jumps; where a line is missing and ``UP`` goes on, the process stood still or the log has a hole.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Final

from service.health.resources import Resources

PERIOD: Final = 60.0
_log = logging.getLogger(__name__)


class Vitals:
    """Looks at every sample of the resources and writes the first, and then one each ``period`` seconds."""

    def __init__(
        self,
        *,
        period: float = PERIOD,
        clock: Callable[[], float] = time.monotonic,
        unix: Callable[[], float] = time.time,
    ) -> None:
        self._period = period
        self._clock = clock
        self._unix = unix
        self._began = clock()
        self._next = self._began

    def look(self, sample: Resources) -> None:
        """Called by one thread."""
        now = self._clock()
        if now < self._next:
            return
        self._next = now + self._period
        _log.info(
            "VITALS | PID=%d | UP=%.0fs | UNIX=%.0f | RSS=%d | MEMORY=%.0f%% | DISK=%.0f%% | GPU=%s"
            " | THREADS=%d",
            os.getpid(),
            now - self._began,
            self._unix(),
            sample.process_memory,
            100 * sample.memory.share,
            100 * sample.disk.share,
            "none" if sample.gpu is None else f"{100 * sample.gpu.share:.0f}%",
            sample.threads,
        )

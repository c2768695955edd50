"""One line of process statistics per minute, so that the log shows leaks, clock changes and stalls.

``UP`` is monotonic and ``UNIX`` is not, so they diverge when the clock is set; a missing line with a
continuing ``UP`` means that the process stalled or that log lines were lost.
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
    """Logs the first sample of the resources, then one every ``period`` seconds."""

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

    def sample(self, sample: Resources) -> None:
        """Take one sample. Called by one thread."""
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

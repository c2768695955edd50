"""The lane of background rows: those of lists, computed while no interactive request waits.

It is outside the queue: its rows have no deadline while they wait, and count neither as load nor as ahead of
anybody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final

from service.contract.request import MAX_TEXTS
from service.inference.jobs import Job

LANE_SIZE: Final = 4 * MAX_TEXTS  # rows; only the runner of lists submits them, a few at a time


class Lane:
    """Waiting background rows, first in first out. Needs the engine's lock."""

    def __init__(self) -> None:
        self._jobs: deque[Job] = deque()

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def append(self, jobs: Sequence[Job]) -> None:
        self._jobs.extend(jobs)

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Queue rows that were computed without an answer ahead of all others, in their order."""
        self._jobs.extendleft(reversed(jobs))

    def remove(self, job: Job) -> None:
        """Remove a job if it waits."""
        with suppress(ValueError):
            self._jobs.remove(job)

    def take(self, most: int) -> list[Job]:
        """Take the next batch, at most ``most`` rows, and half as many for each time that the first one was
        pre-empted: a smaller batch is more likely to end before the next arrival, and when it may not be
        pre-empted any more, it delays others for a short time only."""
        if not self._jobs:
            return []
        most = max(1, most >> self._jobs[0].preemptions)
        return [self._jobs.popleft() for _ in range(min(most, len(self._jobs)))]

"""Requests whose answer needs weights that are being loaded. They keep their deadlines, and their places
count as taken; the engine computes them again when the load has ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from service.inference.jobs import Job


class Deferred:
    """The deferred jobs, in the order of their computation. Needs the engine's lock."""

    def __init__(self) -> None:
        self._jobs: list[Job] = []

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def append(self, job: Job) -> None:
        self._jobs.append(job)

    def remove(self, job: Job) -> None:
        """Remove a job if it is there."""
        with suppress(ValueError):
            self._jobs.remove(job)

    def take(self) -> list[Job]:
        """Take all of them."""
        jobs, self._jobs = self._jobs, []
        return jobs

    def places(self, caller: str | None = None) -> int:
        """How many places in the queue are taken, of ``caller`` or of all: rows and probes take none."""
        taken = (job for job in self._jobs if job.request.source not in ("batch", "probe"))
        return sum(caller is None or job.request.caller == caller for job in taken)

    @property
    def rows(self) -> int:
        """How many are background rows."""
        return sum(job.background for job in self._jobs)

    @property
    def probe(self) -> bool:
        """Whether a probe is among them."""
        return any(job.request.source == "probe" for job in self._jobs)

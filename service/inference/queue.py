"""The queue of the engine: fair between callers, first in first out within one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice

from service.inference.jobs import Job

Group = list[Job]


class FairQueue:
    """Waiting jobs of each caller, in groups that are computed together. Needs the engine's lock.

    A probe has a place of its own, which does not count, so that load cannot starve it. It is taken first and
    alone, so that its computation is always the same.

    A batch takes callers in turn, one group each. A caller that starts to wait goes ahead of those that the
    last batch served, so that the backlog of one caller delays another by the running computation at most,
    as long as a batch has room for all callers that wait.
    """

    def __init__(self) -> None:
        self._groups: dict[str, list[Group]] = {}  # by caller, in the order of their turns
        self.probe: Job | None = None
        self._served: frozenset[str] = frozenset()  # the callers of the last batch

    def __len__(self) -> int:
        return sum(map(self.of, self._groups))

    def __iter__(self) -> Iterator[Job]:
        """All jobs, in no particular order, the probe included."""
        jobs = (job for groups in self._groups.values() for group in groups for job in group)
        return chain(jobs, (self.probe,)) if self.probe is not None else jobs

    def of(self, caller: str) -> int:
        """How many jobs of ``caller`` wait."""
        return sum(map(len, self._groups.get(caller, ())))

    def ahead_of(self, caller: str) -> int:
        """How many waiting jobs come before the next one of ``caller``."""
        turn = len(self._groups.get(caller, ()))
        jumps = not turn and caller not in self._served  # it will go ahead of those just served
        ahead, before = self.of(caller), True
        for other, groups in self._groups.items():
            before &= other != caller and not (jumps and other in self._served)
            if other != caller:
                ahead += sum(map(len, islice(groups, turn + before)))
        return ahead

    def append(self, jobs: Sequence[Job]) -> None:
        """Queue jobs of one caller as a group."""
        if jobs[0].request.source == "probe":
            (self.probe,) = jobs
            return
        caller = jobs[0].request.caller
        if caller not in self._groups and caller not in self._served:
            served = {one: self._groups.pop(one) for one in list(self._groups) if one in self._served}
            self._groups = {**self._groups, caller: [], **served}
        self._groups.setdefault(caller, []).append([*jobs])

    def put_back(self, jobs: Sequence[Job]) -> None:
        """Queue jobs that were computed without an answer ahead of all others, in their order."""
        for job in reversed(jobs):
            if job.request.source == "probe":
                self.probe = job
                continue
            caller = job.request.caller
            self._groups = {caller: [[job], *self._groups.pop(caller, [])], **self._groups}

    def remove(self, job: Job) -> None:
        """Remove a job if it waits."""
        if job is self.probe:
            self.probe = None
            return
        caller = job.request.caller
        for group in self._groups.get(caller, ()):
            if job in group:
                group.remove(job)
                if not group:
                    self._drop(group, caller)
                return

    def next(self, most: int) -> list[Group]:
        """Return the groups of the next batch without taking them: as many as fit into ``most`` jobs, callers
        in turn. The first group is taken even if it is larger."""
        if self.probe is not None:
            return [[self.probe]]
        batch: list[Group] = []
        turn, left, callers = 0, most, list(self._groups.values())
        while callers:
            fitting = []
            for groups in callers:
                if turn < len(groups) and (not batch or len(groups[turn]) <= left):
                    batch.append(groups[turn])
                    left -= len(groups[turn])
                    fitting.append(groups)
            turn, callers = turn + 1, fitting
        return batch

    def take(self, most: int) -> list[Job]:
        """Take the next batch. Its callers go behind all others."""
        if self.probe is not None:
            job, self.probe = self.probe, None
            return [job]
        batch = self.next(most)
        self._served = frozenset(group[0].request.caller for group in batch) or self._served
        for group in batch:
            self._drop(group, group[0].request.caller)
        self._groups |= {one: self._groups.pop(one) for one in list(self._groups) if one in self._served}
        return [job for group in batch for job in group]

    def _drop(self, group: Group, caller: str) -> None:
        groups = self._groups[caller]
        groups.remove(group)
        if not groups:
            del self._groups[caller]

"""The values of served batches: a batch, a row to judge, its outcome, its result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class State(StrEnum):
    """The state of a batch."""

    QUEUED = "queued"  # no row has been submitted
    RUNNING = "running"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"  # as a whole, for its ``code``
    EXPIRED = "expired"


#: The states with rows to judge.
ACTIVE = (State.QUEUED, State.RUNNING)


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch. ``number`` is its key in the store, ``owner`` the name of the API key it belongs to, "" for
    whoever knows its id; ``caller`` uploaded it. ``created`` and ``expires`` are Unix times. ``archive`` says
    whether a zip is kept, whose pictures are relative to ``folder`` in it."""

    number: int
    id: str
    owner: str
    caller: str
    state: State
    code: str | None
    total: int
    done: int
    failed: int
    created: float
    expires: float
    form: str
    columns: Sequence[str]
    delimiter: str
    archive: bool
    folder: str

    @property
    def left(self) -> int:
        return self.total - self.done - self.failed if self.state in ACTIVE else 0

    @property
    def short_id(self) -> str:
        """What a log may say of the id, which is a secret."""
        return self.id[:8]


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of a batch: a name in its archive, or ``length`` bytes at ``offset`` of its picture file."""

    number: int
    image: str
    offset: int | None
    length: int | None


@dataclass(frozen=True, slots=True)
class Unit:
    """Rows with one picture and one premise, judged together. ``crashes`` is how often the process has ended
    while they were judged."""

    batch: int
    picture: Picture
    premise: str | None
    positions: Sequence[int]
    texts: Sequence[str]
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a submitted row ended: with an ``answer``, with the ``code`` and ``error`` of its failure, or, if
    neither, undecided: it waits again. So it does after the first failure that ``may_pass``."""

    batch: int
    position: int
    answer: Mapping[str, Any] | None = None
    code: str | None = None
    error: str | None = None
    may_pass: bool = False


@dataclass(frozen=True, slots=True)
class Result:
    """A finished row. ``fields`` are the list's own columns, ``answer`` the public form of a verdict, None
    with a ``code`` and an ``error``."""

    position: int
    line: int
    id: str | None
    text: str
    image: str
    fields: Mapping[str, Any]
    answer: Mapping[str, Any] | None
    code: str | None
    error: str | None

"""Judge the rows of a list in this process: rows grouped by picture, pictures decoded ahead, in batches."""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from batch.pictures import Pictures
from batch.rows import Row
from service.contract.calibration import Calibration
from service.contract.causes import Outcome
from service.contract.errors import DeviceLost, InferenceError, InputError, OutOfMemory, ServiceError
from service.contract.protocols import Model
from service.contract.request import Pair, Verdict, VerdictFuture
from service.intake.prepare import Intake
from service.intake.readers import Readers
from service.intake.text import Texts
from service.settings import Settings

#: Pairs computed together at first, and at most. Between, the number doubles while a batch takes under a
#: second: larger batches are faster (docs/performance.md), but a killed run loses the batch that it computes.
FIRST_BATCH: Final = 8
MAX_BATCH: Final = 128
_BATCH_SECONDS: Final = 1.0
_WINDOW: Final = 1024  # rows in which those of one picture are brought together
_WINDOW_CHARS: Final = 64 << 20  # of their pictures' names, which may be ``data:`` URLs
#: Processes that decode pictures; a thread waits for each. More would compete with the computation.
READING: Final = max(1, min(4, len(os.sched_getaffinity(0)) // 2))
_READ_SECONDS: Final = 120.0  # of waiting; the readers limit the processor time


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with its verdict, or with the error that prevented one."""

    row: Row
    verdict: Verdict | None = None
    error: ServiceError | None = None

    def answer(self) -> dict[str, Any]:
        """The verdict's public form, or ``reason``, ``code`` and ``error``."""
        if self.verdict is not None:
            return self.verdict.as_dict()
        return refusal(self.error or InferenceError("There is no verdict."))


def refusal(error: ServiceError) -> dict[str, Any]:
    """The public form of an error."""
    reason = Outcome.INVALID if isinstance(error, InputError) else Outcome.ERROR
    return {
        "reason": str(reason),
        "code": str(error.code),
        "error": error.sentence,
    }


@dataclass(eq=False, slots=True)
class _Group:
    """Rows of one picture, with their clean texts."""

    rows: list[Row] = field(default_factory=list)
    texts: list[Texts] = field(default_factory=list)


class Judge:
    """Judges rows with a loaded model."""

    def __init__(
        self, model: Model, settings: Settings, readers: Readers, calibration: Calibration | None = None
    ) -> None:
        self._model = model
        self._intake = Intake(settings, model, readers)
        self._calibration = calibration
        self._most = settings.max_batch or MAX_BATCH
        self._batch = min(FIRST_BATCH, self._most)

    def judge(self, rows: Iterable[Row], pictures: Pictures) -> Iterator[Judged]:
        """Yield every row once, near the order of the list, as soon as its batch is computed.

        An error is of one row. Raises DeviceLost, and what ``rows`` raises.
        """
        ended = VerdictFuture()  # cancelling it stops all decoding
        with ThreadPoolExecutor(READING, "pictures") as threads:
            try:
                yield from self._pipeline(rows, pictures, threads, ended)
            finally:
                ended.cancel()
                threads.shutdown(wait=True, cancel_futures=True)

    def _pipeline(
        self, rows: Iterable[Row], pictures: Pictures, threads: ThreadPoolExecutor, ended: VerdictFuture
    ) -> Iterator[Judged]:
        """Keep pictures for two batches in the threads, and compute a batch when it is full."""
        ahead: deque[tuple[_Group, Future[Image.Image]]] = deque()
        waiting: list[tuple[_Group, Image.Image]] = []
        steps = self._groups(rows)
        more = True
        while more or ahead:
            while more and sum(len(group.rows) for group, _ in ahead) < 2 * self._batch:
                step = next(steps, None)
                if step is None:
                    more = False
                elif isinstance(step, Judged):
                    yield step
                else:
                    picture = threads.submit(self._picture, pictures, step.rows[0].image, ended)
                    ahead.append((step, picture))
            if ahead:
                group, reading = ahead.popleft()
                try:
                    waiting.append((group, reading.result()))
                except Exception as error:
                    reason = known(error)
                    yield from (Judged(row, error=reason) for row in group.rows)
            if sum(len(group.rows) for group, _ in waiting) >= self._batch:
                began = time.monotonic()
                results = list(self._compute(waiting))
                if time.monotonic() - began < _BATCH_SECONDS:
                    self._batch = min(2 * self._batch, self._most)
                yield from results
                waiting = []
        yield from self._compute(waiting)

    def _groups(self, rows: Iterable[Row]) -> Iterator[_Group | Judged]:
        """Rows of one picture together, within a window; rows that cannot be judged by themselves."""
        rows = iter(rows)
        while window := list(_taken(rows)):
            groups: dict[str, _Group] = {}
            for row in window:
                try:
                    if row.error is not None:
                        raise row.error
                    (texts,) = self._intake.texts([row.text], row.premise)
                except Exception as error:
                    yield Judged(row, error=known(error))
                    continue
                group = groups.setdefault(row.image, _Group())
                if len(group.rows) >= self._most:
                    yield groups.pop(row.image)
                    group = groups[row.image] = _Group()
                group.rows.append(row)
                group.texts.append(texts)
            yield from groups.values()

    def _picture(self, pictures: Pictures, image: str, ended: VerdictFuture) -> Image.Image:
        return self._intake.picture(
            pictures.open(image),
            deadline=time.monotonic() + _READ_SECONDS,
            caller=str(threading.get_ident()),  # a caller may not hold all readers
            wanted=ended,
        ).image

    def _compute(self, groups: Sequence[tuple[_Group, Image.Image]]) -> Iterator[Judged]:
        rows = [row for group, _ in groups for row in group.rows]
        pairs = [
            Pair(image, texts.hypothesis, texts.premise) for group, image in groups for texts in group.texts
        ]
        for row, result in zip(rows, self._results(pairs), strict=True):
            yield Judged(row, error=result) if isinstance(result, ServiceError) else Judged(row, result)

    def _results(self, pairs: Sequence[Pair]) -> list[Verdict | ServiceError]:
        """A verdict or an error for each pair; a failing batch is halved until the faulty pair is alone."""
        if not pairs:
            return []
        try:
            scores = self._model.judge(pairs, go_on)
        except DeviceLost:
            raise
        except Exception as error:
            if len(pairs) == 1:
                return [known(error)]
            if isinstance(error, OutOfMemory):
                self._most = self._batch = max(1, len(pairs) // 2)
            middle = len(pairs) // 2
            return self._results(pairs[:middle]) + self._results(pairs[middle:])
        return [self._verdict(one) for one in scores]

    def _verdict(self, scores: Any) -> Verdict | ServiceError:
        device, dtype = self._model.device, self._model.dtype
        try:
            return Verdict.of(scores, duration=0.0, device=device, dtype=dtype, calibration=self._calibration)
        except ServiceError as error:
            return error


def _taken(rows: Iterator[Row]) -> Iterator[Row]:
    """The rows of the next window."""
    chars = 0
    for row in itertools.islice(rows, _WINDOW):
        yield row
        chars += len(row.image)
        if chars > _WINDOW_CHARS:
            return


def known(error: Exception) -> ServiceError:
    """Return ``error`` as one of ours; the text of a foreign one may quote input."""
    if isinstance(error, ServiceError):
        return error
    unexpected = InferenceError(f"Unexpected {type(error).__name__}.")
    unexpected.__cause__ = error
    return unexpected


def go_on() -> None:
    """A cancel point that never cancels."""

"""Progress of fetching a model: the value, a meter for parallel downloads, a terminal progress bar."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_REPORT_EVERY = 0.1  # seconds


@dataclass(frozen=True)
class Progress:
    """``file`` progressed last; the bytes count all files of the model together. ``total_bytes`` is 0 while
    unknown, because another process is fetching the model."""

    file: str
    done_bytes: int
    total_bytes: int


Show = Callable[[Progress], None]


class Abandoned(BaseException):
    """Stops a download from a callback: the hub client treats an Exception there as a network error."""


class Meter:
    """Adds up the bytes of several files from any threads, and reports them at most ten times a second.

    If ``show`` raises, the work is stopped by Abandoned; ``watched`` turns that back into what ``show``
    raised.
    """

    def __init__(self, total: int, done: Mapping[str, int], show: Show) -> None:
        self._total = total
        self._done = dict(done)
        self._show = show
        self._next = 0.0
        self._failure: BaseException | None = None
        self._lock = threading.Lock()  # guards the counts and keeps the reports in order

    def put(self, file: str, size: int) -> None:
        """Set the bytes present of ``file``."""
        with self._lock:
            self._done[file] = size
            self._report(file)

    def add(self, file: str, size: int) -> None:
        """Count ``size`` more bytes of ``file``; negative if it is restarted."""
        with self._lock:
            self._done[file] = self._done.get(file, 0) + size
            self._report(file)

    @contextmanager
    def watched(self) -> Iterator[None]:
        try:
            yield
        except Abandoned:
            if self._failure is None:
                raise
            raise self._failure from None

    def _report(self, file: str) -> None:
        done, now = sum(self._done.values()), time.monotonic()
        if now < self._next and done < self._total:
            return
        self._next = now + _REPORT_EVERY
        try:
            self._show(Progress(file, min(done, self._total), self._total))
        except BaseException as error:
            self._failure = error
            raise Abandoned from error


@contextmanager
def terminal_bar() -> Iterator[Show]:
    """Show a progress bar on standard error while a model is fetched, if that is a terminal."""
    from tqdm import tqdm

    # Created by the first report: a model that needs no fetching shows no bar.
    bars: list[tqdm[Any]] = []

    def show(progress: Progress) -> None:
        if not bars:
            bars.append(tqdm(unit="B", unit_scale=True, unit_divisor=1024, file=sys.stderr, disable=None))
        bar = bars[0]
        bar.total = progress.total_bytes or None
        bar.set_description_str(progress.file, refresh=False)
        bar.update(progress.done_bytes - bar.n)

    try:
        yield show
    finally:
        for bar in bars:
            bar.close()

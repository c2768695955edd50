"""Show how far a run is: a bar on a terminal, otherwise a line now and then."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import Any, Final, Self

from tqdm import tqdm

_LINE_SECONDS: Final = 30.0


class Progress:
    """Rows done of ``total``, on standard error, with the rate and the time left; ``done`` were so before."""

    def __init__(self, total: int, done: int) -> None:
        self._total = total
        self._before = done
        self._done = done
        self._began = self._shown = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr is not None and sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=done, unit=" rows", file=sys.stderr, smoothing=0.1)

    def add(self) -> None:
        """Count one more row."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()
        elif time.monotonic() - self._shown >= _LINE_SECONDS:
            self._shown = time.monotonic()
            left = (self._total - self._done) / self.rate
            print(
                f"{self._done} of {self._total} rows, {self.rate:.1f} rows/s, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    @property
    def rate(self) -> float:
        """Rows a second of this run."""
        return (self._done - self._before) / max(1e-9, time.monotonic() - self._began)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()

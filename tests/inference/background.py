"""Background rows as tests submit them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from service.contract.protocols import CancelPoint
from service.contract.request import Pair, VerdictFuture
from service.inference.engine import Engine
from tests.fakes import (
    FakeEvents,
    Sizes,
    ask,
)


def rows(engine: Engine, names: str, at: float = 1000.0) -> dict[str, VerdictFuture]:
    """Submit background rows together, as the runner of lists does."""
    futures = {name: VerdictFuture() for name in names}
    requests = [replace(ask(name, now=at, source="batch"), deadline=math.inf) for name in names]
    engine.submit_group(requests, list(futures.values()))
    return futures


def codes(futures: Mapping[str, VerdictFuture]) -> set[str | None]:
    return {future.result(0).code if future.done() else None for future in futures.values()}


def most_returns(events: FakeEvents) -> int:
    return max(Counter(chain.from_iterable(events.returned)).values())


class Arrivals(Sizes):
    """During batch n, ``arrivals[n]`` is called before the first cancel point."""

    def __init__(self, arrivals: Mapping[int, Callable[[], object]] | None = None, **spoils: Exception):
        super().__init__(**spoils)
        self.arrivals = arrivals or {}
        self.begun: list[str] = []

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        self.begun.append("".join(pair.hypothesis for pair in pairs))
        self.arrivals.get(len(self.begun), lambda: None)()
        return super().judge(pairs, cancel_point)

"""Stand-ins for what loads and holds a model, where the model is behind --engine."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from service.contract.errors import NotReady
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from service.contract.status import Remote, Status

FIRST_SECONDS: Final = 6.0  # to learn what the engine serves before the first request


class RemoteModel:
    """Names the engine's model in ``status``. It computes nothing."""

    takes_premise: bool | None = None
    language: str | None = None

    def __init__(self, status: Status) -> None:
        self._status = status
        self.device = ""
        self.dtype = ""

    def show(self, engine: Remote) -> None:
        """Show what the engine says of itself; while it cannot be reached, its last name."""
        more = {"model": engine.model, "calibration": engine.calibration} if engine.problem is None else {}
        self.device, self.dtype = engine.device or self.device, engine.dtype or self.dtype
        self._status.update(remote=engine, **more)

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float] | None]:
        raise NotReady("There is no model in this process.")

    def side(self) -> int:
        raise NotReady("There is no model in this process.")

    def load(self, folder: Path) -> None:
        raise NotReady("There is no model in this process.")

    def gpu(self) -> tuple[str, int, int] | None:
        return None

    def close(self) -> None:
        pass


class RemoteLoader:
    """Loads nothing, and never fails: a restart of this process would not help the engine."""

    def __init__(self, wait_first: Callable[[float], None]) -> None:
        self._wait_first = wait_first
        self.stopping = threading.Event()

    def run(self, verify: str | None = None) -> bool:
        self._wait_first(FIRST_SECONDS)
        return False

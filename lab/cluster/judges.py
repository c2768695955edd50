"""Replicas with faults, and replicas that only sleep. Ray's workers import this module."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from cluster.replica import Judge
from lab.cluster.local import SLEEP
from service.build import Application, build
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from service.process.exit_file import exit_now
from service.settings import Settings

SURE: Mapping[str, float] = {"Yes": 0.9, "No": 0.06, "Maybe": 0.04}


class FaultyJudge(Judge):
    """Takes its faults from ``fault.json`` in the folder OFA_RUN_DIR, see lab.faults.inside."""

    def build(self, settings: Settings) -> Application:
        from lab.faults import inside
        from ofa.model import EntailmentModel

        EntailmentModel.judge = inside.judge  # type: ignore[method-assign]
        return super().build(settings)


class SleepingJudge(Judge):
    """The engine over a model that takes no processor time."""

    def build(self, settings: Settings) -> Application:
        model = Sleeper(float(os.environ[SLEEP]))
        return build(settings, model=model, resolve=lambda *_, **__: Path(), exit_now=exit_now)


class Sleeper:
    """A model that takes ``seconds`` for a batch and says Yes."""

    device = "cpu"
    dtype = "fp32"
    takes_premise: bool | None = None
    language: str | None = None

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def load(self, folder: Path) -> None:
        pass

    def side(self) -> int:
        return 16

    def gpu(self) -> None:
        pass

    def close(self) -> None:
        pass

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        time.sleep(self._seconds)
        cancel_point()
        return [SURE for _ in pairs]

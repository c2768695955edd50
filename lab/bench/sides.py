"""What is compared: ModelScope's pipeline in its own process, and our model in its precisions."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

import torch

from lab.bench.cases import write_photograph
from lab.bench.machine import name_of
from lab.parity.folders import SPECS, write_folder
from lab.reference.process import ReferenceProcess
from ofa.model import EntailmentModel, Pair
from ofa.precision import GuardedModel, best_dtype
from ofa.vision import CancelPoint

REFERENCE: Final = "ModelScope"
FP32: Final = "fp32"
PICTURES: Final = 4


def published(name: str, work: Path) -> Path:
    """A published size with random weights, made once and kept in ``work``."""
    folder = work / name
    if not (folder / "complete").exists():
        print(f"Making {folder} with random weights", file=sys.stderr, flush=True)
        write_folder(folder, SPECS[name])
        (folder / "complete").touch()
    return folder


class Judge(Protocol):
    """Our model, guarded or not."""

    def judge(
        self, pairs: Sequence[Pair], cancel_point: CancelPoint | None = None
    ) -> list[dict[str, float]]: ...


@dataclass
class Subject:
    """The folder that is measured, where, and against what. Models are loaded once, when first asked for.

    Attributes:
        folder: ModelScope's format; the large size unless quick.
        small: the one for a thousand pairs, smaller so that they take minutes.
        scratch: a folder for pictures and run-time files, gone afterwards.
        cache: where child processes keep converted weights.
        python: of ModelScope's environment; None leaves its rows out.
        versions: of the packages that decide ModelScope's numbers, once it is loaded.
    """

    folder: Path
    small: Path
    scratch: Path
    device: str
    quick: bool
    cache: Path
    python: Path | None
    pairs: int
    rounds: int
    closer_than: float
    versions: Mapping[str, str] = field(default_factory=dict)
    _reference: ReferenceProcess | None = None

    @property
    def low(self) -> torch.dtype:
        """The fastest format here."""
        return best_dtype(self.device)

    @property
    def low_name(self) -> str:
        return name_of(self.low)

    @property
    def guarded_name(self) -> str:
        return f"{self.low_name}, guard on"

    @cached_property
    def reference(self) -> ReferenceProcess | None:
        """ModelScope with the folder loaded, until :meth:`close`."""
        if self.python is None:
            return None
        self._reference = ReferenceProcess(self.python)
        self.versions = self._reference.load(self.folder, self.device, torch.get_num_threads())["versions"]
        return self._reference

    def close(self) -> None:
        """End ModelScope's process."""
        if self._reference is not None:
            self._reference.close()

    @cached_property
    def pictures(self) -> list[Path]:
        return [write_photograph(self.scratch / f"{seed}.jpg", seed) for seed in range(PICTURES)]

    @cached_property
    def exact(self) -> EntailmentModel:
        return EntailmentModel.load(self.folder, self.device, torch.float32)

    @cached_property
    def fast(self) -> EntailmentModel:
        """In the fastest format, without a guard; the exact model itself where that is fp32."""
        if self.low == torch.float32:
            return self.exact
        return EntailmentModel.load(self.folder, self.device, self.low)

    @cached_property
    def guarded(self) -> GuardedModel:
        return GuardedModel(self.fast, lambda: self.exact, self.closer_than)

    def ours(self) -> dict[str, Judge]:
        """Our side by name: fp32, and where there is something faster, that with and without its guard."""
        sides: dict[str, Judge] = {FP32: self.exact}
        if self.low != torch.float32:
            sides |= {self.low_name: self.fast, self.guarded_name: self.guarded}
        return sides

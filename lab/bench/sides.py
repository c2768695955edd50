"""The compared sides: ModelScope's pipeline in its own process, and our model in each precision."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Final, Protocol

import torch

from lab.bench.cases import write_photograph
from lab.parity.folders import SPECS, write_folder
from lab.reference.process import ReferenceProcess
from ofa import int8
from ofa.int8_check import quantized
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.precision import DTYPES, MARGINS, GuardedModel, Step, best_dtype, name_of
from ofa.vision import CancelPoint

REFERENCE: Final = "ModelScope"
FP32: Final = "fp32"
INT8: Final = "int8"
PICTURES: Final = 4


def published(name: str, work: Path) -> Path:
    """Return a folder of a published size with random weights, made once and kept in ``work``."""
    folder = work / name
    if not (folder / "complete").exists():
        print(f"Making {folder} with random weights", file=sys.stderr, flush=True)
        write_folder(folder, SPECS[name])
        (folder / "complete").touch()
    return folder


def load(folder: Path, device: str, number_format: str) -> EntailmentModel:
    """Load a folder's model in a number format, int8 included."""
    if number_format != INT8:
        return EntailmentModel.load(folder, device, DTYPES[number_format])
    exact = EntailmentModel.load(folder, device, torch.float32)
    return EntailmentModel.load(folder, device, best_dtype(device)).in_int8(quantized(exact))


class Judge(Protocol):
    """Our model, with or without the precision guard."""

    def judge(
        self, pairs: Sequence[Pair], cancel_point: CancelPoint | None = None
    ) -> list[dict[str, float]]: ...


@dataclass
class Subject:
    """What is measured, on which device, against what. Each model is loaded once, on first use.

    Attributes:
        folder: model folder; the large size unless quick.
        small: a smaller folder for the thousand pairs of the agreement.
        scratch: temporary folder for pictures and run directories.
        cache: where child processes keep converted weights.
        python: Python of ModelScope's environment; None leaves its rows out.
        versions: packages that decide ModelScope's numbers, once it is loaded.
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
        """The fastest number format on this device."""
        return best_dtype(self.device)

    @property
    def low_name(self) -> str:
        return name_of(self.low)

    @property
    def guarded_name(self) -> str:
        return f"{self.low_name}, guard on"

    @cached_property
    def reference(self) -> ReferenceProcess | None:
        """ModelScope with the folder loaded; None without its Python."""
        if self.python is None:
            return None
        self._reference = ReferenceProcess(self.python)
        self.versions = self._reference.load(self.folder, self.device, torch.get_num_threads())["versions"]
        return self._reference

    def close(self) -> None:
        """Stop ModelScope's process."""
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
        """The model in the fastest format without a guard; the fp32 model where that is the fastest."""
        if self.low == torch.float32:
            return self.exact
        return EntailmentModel.load(self.folder, self.device, self.low)

    @property
    def computes_int8(self) -> bool:
        return self.device == "cpu" and int8.supported()

    @cached_property
    def int8(self) -> EntailmentModel:
        return self.fast.in_int8(quantized(self.exact))

    @cached_property
    def guarded_int8(self) -> GuardedModel:
        """As the service uses checked int8 weights."""
        steps = [Step(INT8, MARGINS[INT8], lambda: self.int8)]
        if self.low != torch.float32:
            steps.append(Step(self.low_name, MARGINS[self.low_name], lambda: self.fast))
        return GuardedModel([*steps, Step(FP32, MARGINS[FP32], lambda: self.exact)])

    @cached_property
    def guarded(self) -> GuardedModel:
        fast = Step(self.low_name, self.closer_than, lambda: self.fast)
        return GuardedModel([fast, Step(FP32, MARGINS[FP32], lambda: self.exact)])

    def ours(self) -> dict[str, Judge]:
        """Return our sides by name: fp32, and a faster format without and with its guard."""
        sides: dict[str, Judge] = {FP32: self.exact}
        if self.low != torch.float32:
            sides |= {self.low_name: self.fast, self.guarded_name: self.guarded}
        if self.computes_int8:
            sides |= {INT8: self.int8, f"{INT8}, guard on": self.guarded_int8}
        return sides

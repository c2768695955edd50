"""The cached int8 weights of a model folder, with the result of their check."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ofa import processor
from ofa.converted import ConvertedFile
from ofa.precision import MARGINS

#: Pairs with small leads that a check needs, and how many times the margin is to exceed their largest error.
_ENOUGH, _SPARE = 3, 2


@dataclass(frozen=True, slots=True)
class Check:
    """How int8 compared with fp32.

    Attributes:
        pairs: number of pairs compared; 0 if the weights are not checked.
        changed: labels that differ although the guard would have taken them.
        small: pairs with a small lead in either format, which are those that count.
        largest_error: of these, in log-probability (:func:`ofa.precision.moved`).
        margin: the guard's.
        kind: of the processor, which decides the format of what is not int8.
    """

    pairs: int
    changed: int
    small: int
    largest_error: float
    margin: float
    kind: str

    @property
    def passed(self) -> bool:
        """Whether there is evidence that the guard keeps the labels of fp32, with a factor to spare."""
        return self.small >= _ENOUGH and not self.changed and self.largest_error <= self.margin / _SPARE


class Int8File(ConvertedFile):
    """The int8 weights of a model folder and their check."""

    def __init__(self, folder: Path, cache: Path) -> None:
        super().__init__(folder, cache, "int8")

    def check(self) -> Check | None:
        """The result for this source, processor and margin; None if there is none yet."""
        found = (self.record() or {}).get("check")
        try:
            check = Check(**{field.name: found[field.name] for field in fields(Check)})  # type: ignore[index]
        except (LookupError, TypeError):
            return None
        return check if (check.margin, check.kind) == (MARGINS["int8"], processor.kind()) else None

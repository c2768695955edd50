"""The cached int8 weights of a model folder, with the result of their check."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

from ofa.converted import ConvertedFile


@dataclass(frozen=True, slots=True)
class Check:
    """How int8 compared with fp32.

    Attributes:
        pairs: number of pairs compared; 0 if the weights are not checked.
        changed: labels that differ although the guard would have taken them.
        largest_error: of a small lead, in log-probability (:func:`ofa.precision.moved`).
        margin: the guard's.
    """

    pairs: int
    changed: int
    largest_error: float
    margin: float

    @property
    def passed(self) -> bool:
        """Whether the guard keeps the labels of fp32."""
        return self.pairs > 0 and self.changed == 0 and self.largest_error <= self.margin


class Int8File(ConvertedFile):
    """The int8 weights of a model folder and their check."""

    def __init__(self, folder: Path, cache: Path) -> None:
        super().__init__(folder, cache, "int8")

    def check(self) -> Check | None:
        """The result for this source; None if there is none yet."""
        found = (self.record() or {}).get("check")
        try:
            return Check(**{field.name: found[field.name] for field in fields(Check)})  # type: ignore[index]
        except (LookupError, TypeError):
            return None

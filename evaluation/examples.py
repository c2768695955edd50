"""Labelled data: examples with their correct answers, in one form whatever file they come from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from batch.pictures import Pictures
from batch.rows import Row
from service.contract.errors import InputError

#: The names of the answers in published files; OFA's own answers are yes, no and maybe.
_LABELS: Final = {
    "entailment": "Yes",
    "yes": "Yes",
    "contradiction": "No",
    "no": "No",
    "neutral": "Maybe",
    "maybe": "Maybe",
}


class DataCode(StrEnum):
    """Why data or a row of it cannot be evaluated, beside the codes of a list and its rows."""

    UNKNOWN_FORMAT = "unknown_format"
    UNREADABLE_DATA = "unreadable_data"
    MISSING_FIELD = "missing_field"
    UNKNOWN_LABEL = "unknown_label"
    NO_COUNTERPART = "no_counterpart"  # a caption of pairwise data without its right or wrong one
    NOTHING_JUDGED = "nothing_judged"
    NOT_A_REPORT = "not_a_report"
    DIFFERENT_DATA = "different_data"
    UNSUITABLE_DATA = "unsuitable_data"


class Skip(StrEnum):
    """Why a sound row is left out, as its publishers ask."""

    NO_GOLD_LABEL = "no_gold_label"  # SNLI's "-": the annotators disagree
    NOT_VALIDATED = "not_validated"  # VALSE: fewer than two of three annotators chose the caption


@dataclass(frozen=True, slots=True)
class Example:
    """A row of data. ``label`` is its correct label; in pairwise data ``foil`` is the wrong caption, and
    ``row.text`` the right one. ``row.error`` says why it cannot be judged, ``skip`` why it is left out."""

    row: Row
    label: str | None = None
    foil: str | None = None
    category: str = ""
    skip: Skip | None = None

    @property
    def id(self) -> str:
        return self.row.id or ""

    @property
    def digest(self) -> str:
        """Identify what is asked and its correct answer, to compare evaluations."""
        content = [self.row.image, self.row.text, self.row.premise, self.foil, self.label]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Dataset:
    """The examples of a file, in its order, and the source of their pictures."""

    form: str
    examples: Sequence[Example]
    pictures: Pictures
    pairwise: bool = False


def label_of(written: object) -> str:
    """Return Yes, No or Maybe for a label of a file. Raises InputError."""
    label = _LABELS.get(str(written).strip().lower())
    if label is None:
        raise InputError(
            "The label is unknown.",
            code=DataCode.UNKNOWN_LABEL,
            remedy="Use entailment, neutral, contradiction, or Yes, Maybe, No.",
        )
    return label


def bad(row: Row, error: InputError) -> Example:
    """Return an example that cannot be judged. The row's own error, if it has one, came first."""
    return Example(replace(row, error=row.error or error))


def with_own_ids(examples: Iterable[Example]) -> list[Example]:
    """Give each example an id of its own: one that occurs again gets ``~2``, ``~3``, …; without one it is the
    row's number."""
    seen: dict[str, int] = {}
    found = []
    for example in examples:
        name = example.id or f"row-{example.row.number}"
        count = seen[name] = seen.get(name, 0) + 1
        row = replace(example.row, id=name if count == 1 else f"{name}~{count}")
        found.append(replace(example, row=row))
    return found

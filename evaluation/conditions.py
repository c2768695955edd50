"""What the model is shown of an example: picture, premise, both or neither."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from PIL import Image

from batch.rows import Row
from evaluation.examples import Dataset, Example

_GREY: Final = Image.new("RGB", (64, 64), (128, 128, 128))


@dataclass(frozen=True, slots=True)
class Condition:
    """A way to ask. Without ``picture`` every example has the same grey picture."""

    name: str
    meaning: str
    picture: bool
    premise: bool


#: In the order of a report. The published figures of OFA on SNLI-VE are of "premise".
CONDITIONS: Final = (
    Condition("picture", "the picture and the sentence, without premise", True, False),
    Condition("premise", "the picture, the premise and the sentence", True, True),
    Condition("text", "the sentence alone: a grey picture, no premise", False, False),
    Condition("text-premise", "the premise and the sentence: a grey picture", False, True),
)
BY_NAME: Final = {condition.name: condition for condition in CONDITIONS}


class GreyPicture:
    """The picture of the conditions without one: 64 x 64 pixels, grey, as the service's own probe."""

    def __init__(self) -> None:
        file = io.BytesIO()
        _GREY.save(file, "PNG")
        self._content = file.getvalue()

    def open(self, image: str) -> bytes:
        return self._content


def possible(data: Dataset, takes_premise: bool | None) -> list[Condition]:
    """Return the conditions that data and model allow. ``takes_premise`` is whether the model requires
    (True), refuses (False) or allows a premise."""
    premises = any(example.row.premise for example in data.examples)
    return [
        condition
        for condition in CONDITIONS
        if (premises and takes_premise is not False if condition.premise else takes_premise is not True)
    ]


def rows(examples: Sequence[Example], condition: Condition) -> Iterator[Row]:
    """Yield the rows to judge. The number of an example's row is its position times two, that of its foil one
    more."""
    for position, example in enumerate(examples):
        if example.skip is not None or example.row.error is not None:
            continue
        row = replace(
            example.row,
            number=2 * position,
            image=example.row.image if condition.picture else "grey",
            premise=example.row.premise if condition.premise else None,
        )
        yield row
        if example.foil is not None:
            yield replace(row, number=2 * position + 1, text=example.foil)

"""Judge the rows of a list in this process: pictures decoded ahead, rows grouped by picture, in batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from batch.pictures import Pictures
from batch.rows import Row
from service.contract.errors import ServiceError
from service.contract.request import Verdict
from service.inference.native import NativePredictor
from service.intake.readers import Readers
from service.settings import Settings


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with its verdict, or with the error that prevented one."""

    row: Row
    verdict: Verdict | None = None
    error: ServiceError | None = None

    def answer(self) -> dict[str, Any]:
        """The verdict's public form, or ``reason``, ``code`` and ``error``."""
        raise NotImplementedError


class Judge:
    """Judges rows with a loaded model."""

    def __init__(self, model: NativePredictor, settings: Settings, readers: Readers) -> None:
        raise NotImplementedError

    def judge(self, rows: Iterable[Row], pictures: Pictures) -> Iterator[Judged]:
        """Yield every row once, near the order of the list, as soon as its batch is computed.

        An error is of one row. Raises DeviceLost.
        """
        raise NotImplementedError

"""Ask a model about the examples, resumably."""

from __future__ import annotations

import argparse
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from batch.journal import Journal
from batch.judging import READING, Judge
from batch.loading import fingerprint, load
from batch.progress import Progress
from evaluation import formats
from evaluation.conditions import BY_NAME, Condition, GreyPicture, possible, rows
from evaluation.examples import DataCode, Dataset
from evaluation.results import Answers, Judgement
from service.contract.errors import InputError
from service.hub import model_folder
from service.hub.resolve import shown_name
from service.intake.readers import Readers
from service.settings import Settings


class Asking:
    """A loaded model, and the data it is asked about.

    Attributes:
        folder: the model's.
        seconds_a_pair: for a picture and a sentence, reading included; None if nothing was computed.

    Raises ServiceError, OSError.
    """

    def __init__(self, settings: Settings, data: Dataset, source: Path, pictures: Path | None) -> None:
        self.data = data
        self.data_sha256 = _sha256(source)
        self._model, self.folder = load(settings)
        self.weights_sha256 = _sha256(model_folder.weights(self.folder))
        self.seconds_a_pair: float | None = None
        self._settings = settings
        self._run = {
            "list": self.data_sha256,
            "model": fingerprint(self.folder),
            "options": {
                "format": data.form,
                "pictures": None if pictures is None else str(pictures.absolute()),
                "device": self._model.device.partition(":")[0],
                "dtype": self._model.dtype,
            },
        }

    def chosen(self, names: Sequence[str] | None) -> list[Condition]:
        """Return the conditions of these names, or all that data and model allow. Raises InputError."""
        allowed = possible(self.data, self._model.takes_premise)
        wanted = allowed if names is None else [BY_NAME[name] for name in names]
        if not wanted or any(one not in allowed for one in wanted):
            raise InputError(
                "The model refuses a premise, needs one, or the data has none.",
                code=DataCode.UNSUITABLE_DATA,
                remedy=f"Possible conditions: {', '.join(one.name for one in allowed) or 'none'}.",
            )
        return wanted

    def ask(self, journals: Mapping[Condition, Path]) -> Judgement:
        """Return the answers under each condition. What a killed run has judged is read from its journals,
        which are kept.

        Raises RunError, DeviceLost, OSError.
        """
        readers = Readers(count=READING)
        judge = Judge(self._model, self._settings, readers)
        began, computed, answers = time.monotonic(), 0, {}
        try:
            for condition, path in journals.items():
                answers[condition], count = self._answers(judge, condition, path)
                computed += count
        finally:
            readers.stop()
        self.seconds_a_pair = (time.monotonic() - began) / computed if computed else None
        return Judgement.of(self.data, answers)

    def facts(self) -> dict[str, str]:
        """Return what the report says about the model."""
        return {
            "name": shown_name(self._settings.model),
            "weights_sha256": self.weights_sha256,
            "device": self._model.device,
            "dtype": self._model.dtype,
        }

    def _answers(self, judge: Judge, condition: Condition, path: Path) -> tuple[Answers, int]:
        """Return the answers by the numbers of the rows, and how many were computed now."""
        asked = list(rows(self.data.examples, condition))
        pictures = self.data.pictures if condition.picture else GreyPicture()
        with Journal(path, self._run) as journal:
            before = len(journal)
            with Progress(len(asked), before) as progress:
                for judged in judge.judge((row for row in asked if row.number not in journal), pictures):
                    journal.add(judged.row.number, judged.answer())
                    progress.add()
            return {row.number: journal.read(row.number) for row in asked}, len(journal) - before


@contextmanager
def asking(options: argparse.Namespace) -> Iterator[Asking]:
    """Open the data and load the model that a command line names. Raises ServiceError, OSError."""
    given = [f"--{name}={getattr(options, name)}" for name in ("model", "device", "dtype")]
    settings = Settings.from_args(given, {}, prog="python -m evaluation")
    with formats.opened(options.data, options.format, options.pictures, settings.max_bytes) as data:
        yield Asking(settings, data, options.data, options.pictures)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

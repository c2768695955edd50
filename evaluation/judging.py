"""Ask a model about the examples, resumably."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from batch.journal import Journal
from batch.judging import READING, Judge
from batch.loading import fingerprint, load
from batch.progress import Progress
from evaluation.conditions import Condition, GreyPicture, rows
from evaluation.examples import Dataset
from evaluation.results import Answers, Judgement
from service.hub import model_folder
from service.hub.resolve import shown_name
from service.inference.native import NativePredictor
from service.intake.readers import Readers
from service.settings import Settings


class Asking:
    """A loaded model, and the data it is asked about.

    Args:
        source: the file of the data.
        pictures: the folder of its pictures, as given.

    Raises ServiceError, OSError.
    """

    def __init__(self, settings: Settings, data: Dataset, source: Path, pictures: Path | None) -> None:
        self.model, self.folder = load(settings)
        self.weights_sha256 = sha256(model_folder.weights(self.folder))
        self.data_sha256 = sha256(source)
        self._settings = settings
        self._data = data
        self._options = {
            "format": data.form,
            "pictures": None if pictures is None else str(pictures.absolute()),
            "device": self.model.device.partition(":")[0],
            "dtype": self.model.dtype,
            "precision_guard": settings.precision_guard,
        }
        self._fingerprint = fingerprint(self.folder)
        self._spent = 0.0
        self._asked = 0

    def ask(self, conditions: Sequence[Condition], journals: Mapping[Condition, Path]) -> Judgement:
        """Return the answers under each condition. What a killed run has judged is read from its journals,
        which are kept.

        Raises RunError, DeviceLost, OSError.
        """
        readers = Readers(count=READING)
        judge = Judge(self.model, self._settings, readers)
        try:
            found = {one: self._answers(judge, one, journals[one]) for one in conditions}
        finally:
            readers.stop()
        return Judgement.of(self._data, found)

    @property
    def seconds_a_pair(self) -> float | None:
        """Seconds for a picture and a sentence, reading included; None if all answers were in journals."""
        return self._spent / self._asked if self._asked else None

    def facts(self) -> dict[str, str]:
        """Return what the report says about the model."""
        return {
            "name": shown_name(self._settings.model),
            "weights_sha256": self.weights_sha256,
            "device": self.model.device,
            "dtype": self.model.dtype,
        }

    def _answers(self, judge: Judge, condition: Condition, journal_path: Path) -> Answers:
        asked = list(rows(self._data.examples, condition))
        run = {"list": self.data_sha256, "model": self._fingerprint, "options": self._options}
        pictures = self._data.pictures if condition.picture else GreyPicture()
        with Journal(journal_path, run) as journal:
            with self._timed(), Progress(len(asked), len(journal)) as progress:
                for judged in judge.judge((row for row in asked if row.number not in journal), pictures):
                    journal.add(judged.row.number, judged.answer())
                    progress.add()
                    self._asked += 1
            return {row.number: journal.read(row.number) for row in asked}

    @contextmanager
    def _timed(self) -> Iterator[None]:
        began = time.monotonic()
        yield
        self._spent += time.monotonic() - began


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

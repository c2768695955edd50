"""Judge a list in this process and write its results to a file: ``python -m ofa --input``."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any, Final

from batch.journal import Journal, RunError, journal_of
from batch.judging import READING, Judge
from batch.lists import WorkList, open_list
from batch.loading import fingerprint
from batch.outputs import CsvResults, JsonResults
from batch.pairs import PICTURES, names_in
from batch.pictures import FolderPictures, Pictures, ZipPictures
from batch.progress import Progress
from batch.rows import Columns, ListError, Row
from service.contract.calibration import Calibration
from service.contract.causes import ListCode, RunCode
from service.contract.protocols import Model
from service.intake.readers import Readers
from service.settings import Settings

OUTPUTS: Final = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did: ``rows`` of the list, of which ``judged`` in this run, ``failed`` in all runs."""

    rows: int
    judged: int
    failed: int
    per_second: float


class LocalRun:
    """A run that may start: the list can be read, and the output does not exist.

    Args:
        resume: continue after an earlier run of the same list, if there was one.

    Raises ListError, RunError.
    """

    def __init__(self, source: Path, output: Path, columns: Columns, *, resume: bool) -> None:
        self._source = source
        self._output = output
        self._columns = columns
        _check_output(output, resume)
        with self._list() as rows:
            self._rows = sum(1 for _ in rows)
        if not self._rows:
            raise _list_empty()
        self._digest = _digest(source)

    def run(self, model: Model, folder: Path, settings: Settings, calibration: Calibration | None) -> Summary:
        """Judge what is not yet judged, and write the output.

        Raises ListError, RunError, DeviceLost, OSError. What was judged is kept in the journal.
        """
        options = {
            "columns": asdict(self._columns),
            "device": model.device.partition(":")[0],
            "dtype": model.dtype,
            "precision_guard": settings.precision_guard,
            "language": settings.language,
            "calibration": None if calibration is None else asdict(calibration),
        }
        run = {"list": self._digest, "model": fingerprint(folder), "options": options}
        with Journal(journal_of(self._output), run) as journal:
            before = len(journal)
            per_second = self._judge(model, settings, calibration, journal) if before < self._rows else 0.0
            failed = self._write(journal, calibrated=calibration is not None)
            journal.remove()
            return Summary(self._rows, len(journal) - before, failed, per_second)

    def _judge(
        self, model: Model, settings: Settings, calibration: Calibration | None, journal: Journal
    ) -> float:
        """Record the answers to all rows; return rows a second."""
        readers = Readers(count=READING)
        judge = Judge(model, settings, readers, calibration)
        with self._list() as rows, _stopped(readers), Progress(self._rows, len(journal)) as progress:
            pictures = self._pictures(rows, settings.max_bytes)
            for judged in judge.judge((row for row in rows if row.number not in journal), pictures):
                journal.add(judged.row.number, judged.answer())
                progress.add()
            return progress.rate

    def _write(self, journal: Journal, *, calibrated: bool) -> int:
        """Write the output in the order of the list; return how many rows failed."""
        failed = 0
        with self._list() as rows, _atomic(self._output) as file:
            header, line = self._results(rows, calibrated)
            file.write(header)
            for row in rows:
                try:
                    answer = journal.read(row.number)
                except KeyError as error:
                    raise RunError(
                        "The list changed while it was judged.",
                        code=RunCode.LIST_CHANGED,
                        remedy=f"Delete {journal_of(self._output).name} and start again.",
                    ) from error
                failed += "error" in answer
                file.write(line(row, answer))
        return failed

    def _results(self, rows: WorkList, calibrated: bool) -> tuple[str, Callable[[Row, dict[str, Any]], str]]:
        """The first line of the output, and what makes the line of a row."""
        suffix = self._output.suffix.lower()
        if suffix == ".jsonl":
            lines = JsonResults(rows.columns)
            return "", lambda row, answer: lines.line(row.fields, row.number, answer)
        delimiter = "\t" if suffix == ".tsv" else rows.delimiter if rows.form == "csv" else ","
        cells = CsvResults(rows.columns, delimiter, calibrated=calibrated)
        # Spreadsheets take UTF-8 without a mark for the encoding of the system.
        mark = "" if rows.encoding == "utf-8" else "\ufeff"
        return mark + cells.header(), lambda row, answer: cells.line(row.fields, row.number, answer)

    def _list(self) -> WorkList:
        return open_list(self._source, self._source.name, self._columns)

    def _pictures(self, rows: WorkList, max_bytes: int) -> Pictures:
        if rows.archive is not None:
            return ZipPictures(rows.archive, max_bytes, rows.folder)
        base = self._source if self._source.is_dir() else self._source.parent
        return FolderPictures(base, max_bytes)


def _check_output(output: Path, resume: bool) -> None:
    """Raises RunError."""
    if output.suffix.lower() not in OUTPUTS:
        raise RunError(
            "This is not a form of output that is written.",
            code=RunCode.OUTPUT_FORM,
            remedy=f"Use one of {', '.join(OUTPUTS)}.",
        )
    begun = journal_of(output).exists()
    if output.exists() and not (resume and begun):
        raise RunError(
            "The output exists already.", code=RunCode.OUTPUT_EXISTS, remedy="Choose another, or delete it."
        )
    if begun and not resume:
        name = journal_of(output).name
        raise RunError(
            "An earlier run of this output has not ended.",
            code=RunCode.OUTPUT_EXISTS,
            remedy=f"Continue it with --resume, or delete {name}.",
        )
    if not os.access(output.parent, os.W_OK | os.X_OK):
        raise RunError(
            "The folder of the output is missing or cannot be written.",
            code=RunCode.OUTPUT_UNWRITABLE,
            remedy="Choose another folder.",
        )


def _digest(source: Path) -> str:
    """Return a SHA-256 of the list; of a folder, of its files' names, sizes and times. Raises OSError."""
    if not source.is_dir():
        with source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    digest = hashlib.sha256()
    for name in names_in(source):
        if not name.lower().endswith((*PICTURES, ".txt")):
            continue  # such as the output and its journal
        status = (source / name).lstat()
        digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0"))
    return digest.hexdigest()


@contextmanager
def _stopped(readers: Readers) -> Iterator[None]:
    try:
        yield
    finally:
        readers.stop()


@contextmanager
def _atomic(output: Path) -> Iterator[IO[str]]:
    """Write to a file beside ``output`` and rename it when it is complete."""
    part = output.with_name(f"{output.name}.part")
    try:
        with part.open("w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(output)
    finally:
        with suppress(FileNotFoundError):
            part.unlink()


def _list_empty() -> ListError:
    return ListError("The list has no rows.", code=ListCode.LIST_EMPTY, remedy="Add rows below the header.")

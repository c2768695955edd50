"""Compare a local run of a list with the model alone on the same batches of decoded pictures."""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from batch.judging import READING
from batch.loading import load
from batch.local import LocalRun
from batch.rows import Columns
from lab.bench.cases import sentence, write_photograph
from lab.bench.sides import Subject
from lab.bench.timing import alternate, timed
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from service.inference.native import NativePredictor
from service.settings import Settings

_PER_PICTURE: Final = 5  # sentences, as in Flickr30k


class _Recorded(NativePredictor):
    """Keeps the batches that it is given."""

    batches: list[Sequence[Pair]]

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> list[dict[str, float]]:
        self.batches.append(pairs)
        return super().judge(pairs, cancel_point)


def batch(subject: Subject) -> dict[str, Any]:
    """Measure both alternately with the demo model: rows a second of 2,000 rows, five about each photograph.

    A run reads and checks the list, decodes, judges, keeps the journal and writes the output.
    """
    rows = 40 if subject.quick else 2000
    source = _write_list(subject.scratch, rows)
    settings = Settings(model="demo", device=subject.device, converted_cache="off")
    model, folder = load(settings)
    model.__class__ = _Recorded
    assert isinstance(model, _Recorded)
    output = subject.scratch / "results.csv"

    def run() -> None:
        output.unlink(missing_ok=True)
        model.batches = []
        LocalRun(source, output, Columns(), resume=False).run(model, folder, settings, None)

    def alone() -> None:
        for pairs in list(model.batches):
            NativePredictor.judge(model, pairs, lambda: None)

    run()
    used = time.process_time()
    alone()
    used = time.process_time() - used
    spreads = alternate(
        {"local run": lambda _: timed(run), "model alone": lambda _: timed(alone)}, 1 if subject.quick else 5
    )
    seconds = {name: spread.median for name, spread in spreads.items()}
    return {
        "rows": rows,
        "pictures": -(-rows // _PER_PICTURE),
        "readers": READING,
        "largest_batch": max(map(len, model.batches)),
        "model_cpu_ms": round(1000 * used / rows, 2),
        "per_second": {name: round(rows / one, 1) for name, one in seconds.items()},
        "sides": {name: spread.as_dict() for name, spread in spreads.items()},
        "share": round(seconds["model alone"] / seconds["local run"], 3),
    }


def _write_list(folder: Path, rows: int) -> Path:
    with (folder / "list.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "text"))
        for number in range(rows):
            name = f"{number // _PER_PICTURE}.jpg"
            if number % _PER_PICTURE == 0:
                write_photograph(folder / name, number)
            writer.writerow((name, sentence(number)))
    return folder / "list.csv"

"""Compare a local run of a list with the model alone on the same batches of decoded pictures."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Final

from PIL import Image

from batch.judging import READING
from batch.loading import load
from batch.local import LocalRun
from batch.rows import Columns
from lab.bench.cases import photograph, sentence
from lab.bench.sides import Subject
from lab.bench.timing import alternate, timed
from lab.demo_training.render import render
from lab.demo_training.world import scenes
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from service.inference.native import NativePredictor
from service.settings import Settings

_PER_PICTURE: Final = 5  # sentences, as in Flickr30k
_TYPES: Final = {"drawings": "png", "photographs": "jpg"}


class _Recorded(NativePredictor):
    """Keeps the batches that it is given."""

    batches: list[Sequence[Pair]]

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[dict[str, float] | None]:
        self.batches.append(pairs)
        return super().judge(pairs, cancel_point)


def batch(subject: Subject) -> dict[str, Any]:
    """Measure both alternately with the demo model, on its own drawings and on photographs of 640 × 480.

    A run reads and checks the list, decodes, judges, keeps the journal and writes the output.
    """
    settings = Settings(model="demo", device=subject.device, converted_cache="off")
    model, folder = load(settings)
    model.__class__ = _Recorded
    assert isinstance(model, _Recorded)
    rows = 40 if subject.quick else 2000
    measured = {}
    for kind, pictures in (("drawings", _drawings()), ("photographs", map(photograph, count()))):
        source = _write_list(subject.scratch / kind, rows, _TYPES[kind], pictures)
        output = source.with_name("results.csv")

        def run(source: Path = source, output: Path = output) -> None:
            output.unlink(missing_ok=True)
            model.batches = []
            LocalRun(source, output, Columns(), resume=False).run(model, folder, settings, None)

        measured[kind] = _compared(run, model, rows, 1 if subject.quick else 5)
    return {"rows": rows, "sentences_per_picture": _PER_PICTURE, "readers": READING, "lists": measured}


def _compared(run: Callable[[], None], model: _Recorded, rows: int, rounds: int) -> dict[str, Any]:
    def alone() -> None:
        for pairs in list(model.batches):
            NativePredictor.judge(model, pairs, lambda: None)

    run()
    spreads = alternate({"run": lambda _: timed(run), "alone": lambda _: timed(alone)}, rounds)
    seconds = {name: spread.median for name, spread in spreads.items()}
    return {
        "largest_batch": max(map(len, model.batches)),
        "run_per_second": round(rows / seconds["run"], 1),
        "alone_per_second": round(rows / seconds["alone"], 1),
        "share": round(seconds["alone"] / seconds["run"], 3),
        "sides": {name: spread.as_dict() for name, spread in spreads.items()},
    }


def _drawings() -> Iterator[Image.Image]:
    return map(render, scenes(1, (1, 2, 3, 4, 5)))


def _write_list(folder: Path, rows: int, suffix: str, pictures: Iterator[Image.Image]) -> Path:
    folder.mkdir()
    with (folder / "list.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("image", "text"))
        for number in range(rows):
            name = f"{number // _PER_PICTURE}.{suffix}"
            if number % _PER_PICTURE == 0:
                next(pictures).save(folder / name, quality=90)
            writer.writerow((name, sentence(number)))
    return folder / "list.csv"

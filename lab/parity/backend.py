"""Compare `--backend modelscope` with the pipeline it serves: the scores must be equal."""

from __future__ import annotations

from pathlib import Path

from lab.parity.compare import FolderResult
from ofa.image import open_picture
from service.contract.request import Pair
from service.inference.modelscope.backend import ChildPredictor


def compare_backend(python: Path, folder: Path, result: FolderResult, pictures: Path) -> float:
    """Return the largest difference to ModelScope's scores in `result`. Raises ServiceError."""
    predictor = ChildPredictor(python, device="cpu")
    try:
        predictor.load(folder)
        differences = []
        for pair in result.results:
            image = open_picture(pictures / pair.pair.picture, transparency="dropped")
            scores = predictor.judge([Pair(image, pair.pair.text, pair.pair.premise)], _never)[0]
            differences += [abs(scores[label] - value) for label, value in pair.reference.items()]
        return max(differences)
    finally:
        predictor.close()


def _never() -> None:
    """A cancel point that never cancels."""

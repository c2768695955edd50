"""The calibration of a model: a temperature for its scores and two thresholds for a decision.

``python -m evaluation calibrate`` writes the file beside the weights; its checksum of the weights says which
model it was measured with.
"""

from __future__ import annotations

import math
import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from ofa import documents
from service.contract.causes import CalibrationCode

FILE: Final = "calibration.json"
FORMAT: Final = 1
TEMPERATURES: Final = (0.01, 100.0)  # lowest and highest
_MAX_BYTES: Final = 64 << 10
_SHA256: Final = re.compile(r"[0-9a-f]{64}")

Decision = Literal["accept", "review", "reject"]


class CalibrationError(Exception):
    """The file cannot be used; ``code`` says why."""

    def __init__(self, message: str, code: CalibrationCode) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True, slots=True)
class Calibration:
    """``temperature`` divides the logits of the answers; above 1 it lowers the confidence. ``accept`` and
    ``review`` are thresholds of the highest calibrated score, ``accept`` at least ``review``."""

    temperature: float
    accept: float
    review: float
    weights_sha256: str

    @classmethod
    def of(cls, document: object) -> Self:
        """Check a parsed file; fields not used here are ignored. Raises CalibrationError."""
        if not isinstance(document, dict):
            raise _malformed("it is not a JSON object")
        if type(document.get("format")) is not int or document["format"] != FORMAT:
            raise _malformed(f"format is not {FORMAT}")
        checksum = document.get("weights_sha256")
        if not isinstance(checksum, str) or not _SHA256.fullmatch(checksum):
            raise _malformed("weights_sha256 is not a SHA-256 in lower-case hexadecimal digits")
        temperature = _number(document, "temperature", *TEMPERATURES)
        accept, review = _number(document, "accept", 0.0, 1.0), _number(document, "review", 0.0, 1.0)
        if accept < review:
            raise _malformed("accept is lower than review")
        return cls(temperature, accept, review, checksum)

    def calibrated(self, scores: Mapping[str, float]) -> dict[str, float]:
        """Return softmax(log(score) / temperature): the scores of logits divided by the temperature, since
        ``scores`` are a softmax of the logits. They must be finite."""
        logs = {name: math.log(score) if score > 0.0 else -math.inf for name, score in scores.items()}
        top = max(logs.values())
        weights = {name: math.exp((value - top) / self.temperature) for name, value in logs.items()}
        total = sum(weights.values())
        return {name: weight / total for name, weight in weights.items()}

    def decide(self, calibrated: Mapping[str, float]) -> Decision:
        """Return what to do with an answer, by its highest calibrated score."""
        confidence = max(calibrated.values())
        if confidence >= self.accept:
            return "accept"
        return "review" if confidence >= self.review else "reject"


def read(path: Path) -> Calibration:
    """Read a calibration file that only its owner, root or this user, may write.

    Raises FileNotFoundError without a file, CalibrationError for one that cannot be used.
    """
    try:
        _check_owner(path.stat())
        return Calibration.of(documents.read_json(path, _MAX_BYTES))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise CalibrationError("The file cannot be read.", CalibrationCode.UNREADABLE) from error
    except ValueError as error:
        raise _malformed(f"it is {error}") from error


def _check_owner(status: os.stat_result) -> None:
    if status.st_uid not in (os.geteuid(), 0) or stat.S_IMODE(status.st_mode) & 0o022:
        raise CalibrationError("Other users may write the file.", CalibrationCode.PERMISSIONS)


def _number(document: Mapping[str, Any], name: str, least: float, most: float) -> float:
    value = document.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise _malformed(f"{name} is not a number from {least:g} to {most:g}")
    return float(value)


def _malformed(why: str) -> CalibrationError:
    return CalibrationError(f"The file is malformed: {why}.", CalibrationCode.MALFORMED)

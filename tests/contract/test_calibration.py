"""The calibration file and what it does to scores."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import pytest

from service.contract.calibration import Calibration, CalibrationError, read
from service.contract.causes import CalibrationCode

GOOD: dict[str, Any] = {
    "format": 1,
    "weights_sha256": "0" * 64,
    "temperature": 2.0,
    "accept": 0.9,
    "review": 0.6,
    "made": "2026-11-26",
    "pairs": 100,
}


def softmax(logits: list[float]) -> list[float]:
    total = sum(map(math.exp, logits))
    return [math.exp(value) / total for value in logits]


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 100.0])
def test_calibrated_scores_are_those_of_logits_divided_by_the_temperature(temperature: float) -> None:
    logits = [4.0, -1.0, 0.5]
    calibration = Calibration(temperature, 0.9, 0.5, "0" * 64)
    calibrated = calibration.calibrated(dict(zip(("Yes", "No", "Maybe"), softmax(logits), strict=True)))
    assert list(calibrated.values()) == pytest.approx(softmax([value / temperature for value in logits]))


@pytest.mark.parametrize("temperature", [0.01, 100.0])
def test_scores_of_zero_and_tiny_scores_stay_finite(temperature: float) -> None:
    scores = Calibration(temperature, 1.0, 0.0, "0" * 64).calibrated({"Yes": 1.0, "No": 0.0, "Maybe": 5e-324})
    assert scores["No"] == 0.0
    assert sum(scores.values()) == pytest.approx(1.0)


def test_the_decision_goes_by_the_highest_calibrated_score() -> None:
    calibration = Calibration(1.0, 0.9, 0.6, "0" * 64)
    tops = (0.95, 0.9, 0.89, 0.6, 0.59)
    decisions = [calibration.decide({"Yes": 0.1, "No": top, "Maybe": 0.0}) for top in tops]
    assert decisions == ["accept", "accept", "review", "review", "reject"]


def write(folder: Path, text: str) -> Path:
    path = folder / "calibration.json"
    path.write_text(text)
    path.chmod(0o644)
    return path


def test_a_good_file_is_read(tmp_path: Path) -> None:
    assert read(write(tmp_path, json.dumps(GOOD))) == Calibration(2.0, 0.9, 0.6, "0" * 64)


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": True},
        {"weights_sha256": "0" * 63},
        {"weights_sha256": "A" * 64},
        {"weights_sha256": None},
        {"temperature": 0},
        {"temperature": -1.0},
        {"temperature": 1e6},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"temperature": True},
        {"temperature": "2"},
        {"accept": 1.01},
        {"review": -0.01},
        {"accept": 0.5, "review": 0.6},
        {"accept": None},
    ],
    ids=str,
)
def test_a_value_outside_its_bounds_is_malformed(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(CalibrationError) as found:
        read(write(tmp_path, json.dumps(GOOD | change)))
    assert found.value.code is CalibrationCode.MALFORMED


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '{"format": 1}', " " * (64 << 10) + "{}"])
def test_a_file_that_is_not_a_calibration_is_malformed(tmp_path: Path, text: str) -> None:
    with pytest.raises(CalibrationError) as found:
        read(write(tmp_path, text))
    assert found.value.code is CalibrationCode.MALFORMED


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_may_write_is_refused(tmp_path: Path, mode: int) -> None:
    path = write(tmp_path, json.dumps(GOOD))
    path.chmod(mode)
    with pytest.raises(CalibrationError) as found:
        read(path)
    assert found.value.code is CalibrationCode.PERMISSIONS


def test_a_pipe_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(path := tmp_path / "calibration.json", 0o600)
    with pytest.raises(CalibrationError):
        read(path)


def test_no_file_is_not_a_calibration_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "calibration.json")

"""Fitting and checking a calibration, by hand-computed values and with the real command."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from evaluation import calibration
from evaluation.__main__ import main
from evaluation.calibration import Sample
from service.inference import calibrating
from tests.evaluation import models, world


def sample(size: int, temperature: float) -> Sample:
    """Return pairs whose scores are those of true probabilities with the logits multiplied."""
    draw = np.random.default_rng(1)
    logits = draw.normal(size=(size, 3)) * 2
    true = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    truth = np.array([draw.choice(3, p=row) for row in true])
    sharp = np.exp(logits * temperature)
    return Sample([str(n) for n in range(size)], truth, sharp / sharp.sum(axis=1, keepdims=True))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_sharpened_the_scores_is_found(temperature: float) -> None:
    fitted = calibration.fit(sample(4000, temperature), 0.01, 0.05, "0" * 64)
    assert fitted.temperature == pytest.approx(temperature, rel=0.06)


def test_a_threshold_keeps_the_upper_limit_of_the_risk() -> None:
    confidence = np.concatenate([np.full(1000, 0.9), np.full(1000, 0.6), np.full(10, 0.4)])
    wrong = np.zeros(2010, dtype=bool)
    wrong[[0, *range(1000, 1100), *range(2000, 2010)]] = True
    # One error in 1000: at most 0.5 % with 95 % confidence. With the next block 5 %, at most 5.9 %.
    assert calibration.threshold(confidence, wrong, 0.005) == 0.9
    assert calibration.threshold(confidence, wrong, 0.05) == 0.9
    assert calibration.threshold(confidence, wrong, 0.06) == 0.6
    assert calibration.threshold(confidence, wrong, 0.1) == 0.4
    assert calibration.threshold(confidence, wrong, 0.001) == calibration.NEVER


def test_few_pairs_cannot_show_a_low_risk() -> None:
    # Without error the limit is z² / (n + z²), z = 1.645: below 1 % from 268 pairs on.
    for pairs, found in ((267, calibration.NEVER), (268, 0.9)):
        assert calibration.threshold(np.full(pairs, 0.9), np.zeros(pairs, dtype=bool), 0.01) == found


def test_a_picture_is_on_one_side_of_the_split_always_the_same() -> None:
    whole = sample(3000, 1.0)
    pictures = [str(position // 3) for position in range(3000)]
    whole = Sample(pictures, whole.truth, whole.scores)
    fitting, held_out = calibration.split(whole, 0.3)
    assert not set(fitting.pictures) & set(held_out.pictures)
    assert sorted([*fitting.pictures, *held_out.pictures]) == sorted(pictures)
    assert len(held_out.pictures) / 3000 == pytest.approx(0.3, abs=0.05)
    assert calibration.split(whole, 0.3)[1].pictures == held_out.pictures


def test_decisions_are_checked_on_the_pairs_held_out() -> None:
    fitting, held_out = calibration.split(sample(4000, 3.0), 0.5)
    fitted = calibration.fit(fitting, 0.05, 0.2, "0" * 64)
    checked = calibration.check(held_out, fitted)
    assert calibration.improves(checked)
    assert checked["ece"]["after"] < checked["ece"]["before"] / 2
    assert checked["ece_change"]["low"] < checked["ece_change"]["value"] < checked["ece_change"]["high"] < 0
    decisions = checked["decisions"]
    assert decisions["accept"]["error"]["low"] < 0.05
    assert sum(one["share"] for one in decisions.values()) == pytest.approx(1.0)
    errors = [decisions[name]["error"]["value"] for name in ("accept", "review", "reject")]
    assert errors == sorted(errors)


@pytest.mark.parametrize(
    ("nll", "low", "improved"), [(0.9, -0.1, True), (1.0, -0.1, False), (0.9, 0.01, False), (0.9, 0.0, True)]
)
def test_a_calibration_must_lower_the_nll_and_not_raise_the_error(
    nll: float, low: float, improved: bool
) -> None:
    checked = {"nll": {"before": 1.0, "after": nll}, "ece_change": {"low": low}}
    assert calibration.improves(checked) == improved


def data_of(folder: Path, wrong: Callable[[int, str], bool]) -> Path:
    """Write 240 pairs that the demo model knows. ``wrong`` tells by position and picture whose label is
    wrong."""
    pairs = world.pairs(240, ("existence", "colour"))
    world.draw(folder / "pictures", pairs)
    data = world.own_csv(folder / "data.csv", pairs)
    header, *lines = data.read_text().splitlines()
    changed = [
        turned(line) if wrong(position, line.partition(",")[0]) else line
        for position, line in enumerate(lines)
    ]
    data.write_text("\n".join([header, *changed]))
    return data


def turned(line: str) -> str:
    """Return a row with another label."""
    label = "No" if ",Yes," in line else "Yes"
    return re.sub(",(Yes|No|Maybe),", f",{label},", line)


def test_calibrating_an_over_confident_model_halves_its_error(tmp_path: Path) -> None:
    """A fifth of the labels is wrong, whatever the weights: no model should be surer than 80 % there."""
    data = data_of(tmp_path, lambda position, _: position % 5 == 0)
    folder = models.scaled(tmp_path / "model", 3)
    assert main(["calibrate", str(data), "--model", str(folder)]) == 0
    written = json.loads((folder / "calibration.json").read_text())
    assert written["ece"]["after"] < written["ece"]["before"] / 2
    assert written["nll"]["after"] < written["nll"]["before"]
    assert written["pairs"]["fitted"] + written["pairs"]["held_out"] == 240
    state = calibrating.read(folder, lambda path: None, lambda: None)
    assert state.calibration is not None, state
    assert state.calibration.temperature == written["temperature"] > 3
    assert not list(folder.glob("*.journal"))
    weights = folder / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes() + b" ")
    assert calibrating.read(folder, lambda path: None, lambda: None).calibration is None


def test_a_calibration_that_does_not_help_is_not_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An under-confident model is right about nine tenths of the pairs to fit with, and about none of those
    held out: what is fitted makes it more confident, and is worse there."""

    def wrong(position: int, picture: str) -> bool:
        _, held_out = calibration.split(Sample([picture], np.zeros(1), np.ones((1, 3))), 0.5)
        return bool(held_out.pictures) or position % 8 == 0

    data, output = data_of(tmp_path, wrong), tmp_path / "calibration.json"
    folder = models.scaled(tmp_path / "model", 0.1)
    assert main(["calibrate", str(data), "--model", str(folder), "--output", str(output)]) == 1
    assert not list(tmp_path.glob("calibration.json*"))
    printed = capsys.readouterr().out
    assert "NLL: " in printed
    assert "ECE: " in printed


def test_a_model_that_is_always_right_cannot_be_calibrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pairs = world.pairs(240, ("existence", "maybe"))
    world.draw(tmp_path / "pictures", pairs)
    data, output = world.own_csv(tmp_path / "data.csv", pairs), tmp_path / "calibration.json"
    assert main(["calibrate", str(data), "--output", str(output)]) == 2
    assert " unsuitable_data: " in capsys.readouterr().err
    assert not list(tmp_path.glob("calibration.json*"))


@pytest.mark.parametrize("write", [world.own_csv, world.sugar_crepe])
def test_unsuitable_data_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str], write) -> None:
    world.draw(tmp_path / "pictures", world.pairs())
    data = write(tmp_path / "data.json", world.pairs())
    if write is world.own_csv:
        data = data.rename(tmp_path / "data.csv")
    output = tmp_path / "calibration.json"
    assert main(["calibrate", str(data), "--output", str(output)]) == 2
    assert " unsuitable_data: " in capsys.readouterr().err
    assert not output.exists()

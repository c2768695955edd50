"""``python -m ofa`` as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image


def run(*arguments: str, lines: str = "", folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ofa", *arguments],
        input=lines,
        capture_output=True,
        text=True,
        timeout=400,
        env=None,
        cwd=folder or Path(__file__).parents[2],
    )


@pytest.fixture
def picture_file(tmp_path: Path, picture: Image.Image) -> Path:
    picture.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_one_pair_gives_one_line(random_folder: Path, picture_file: Path) -> None:
    done = run(
        "--model", str(random_folder), "--image", str(picture_file), "--text", "a circle", "--premise", "red"
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert answer["label"] == max(answer["scores"], key=answer["scores"].get)
    assert answer["score"] == answer["scores"][answer["label"]]


def test_each_line_is_answered_in_order_and_a_bad_one_ends_nothing(
    random_folder: Path, picture_file: Path
) -> None:
    good = {"image": str(picture_file), "text": "a circle"}
    lines = [
        json.dumps(good),
        "not json",
        json.dumps({"image": "absent.png", "text": "a"}),
        json.dumps({"text": "a"}),
        json.dumps({**good, "premise": 3}),
        json.dumps({**good, "text": "\ud800"}),
        json.dumps(good),
    ]
    done = run("--model", str(random_folder), lines="\n".join(lines) + "\n")
    assert done.returncode == 1
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in answer for answer in answers] == [False, True, True, True, True, True, False]
    assert answers[0] == answers[-1]


def test_a_model_that_cannot_be_loaded_is_said_in_one_line(tmp_path: Path) -> None:
    done = run("--model", str(tmp_path), lines="")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "configuration.json" in done.stderr


def test_a_picture_without_a_text_is_a_usage_error(random_folder: Path, picture_file: Path) -> None:
    assert run("--model", str(random_folder), "--image", str(picture_file)).returncode == 2

"""``python -m ofa --input`` as a process: results, kills, resumption, exit codes."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lab.instances.instance import ROOT
from lab.parity.folders import SMALL, write_folder
from tests.batch.zips import zipped
from tests.reading import SMALL as PICTURE

USAGE = 2
INTERRUPTED = 130
CONFIGURATION = 78
PATIENCE = 300.0
ROWS = 400


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"), SMALL["defaults-resnet18"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        Image.new("RGB", (40, 30), (60 * number, 0, 0)).save(tmp_path / f"{number}.png")
    return tmp_path


@pytest.fixture
def long_list(folder: Path) -> Path:
    """A list that takes a few seconds."""
    lines = [f"{number % 4}.png,there are {number} circles\n" for number in range(ROWS)]
    (folder / "list.csv").write_text("image,text\n" + "".join(lines))
    return folder / "list.csv"


def command(model: Path, source: Path, output: Path, *more: str) -> list[str]:
    paths = ("--model", str(model), "--input", str(source), "--output", str(output))
    return [sys.executable, "-m", "ofa", *paths, *more]


def run(model: Path, source: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(model, source, output, *more), capture_output=True, text=True, timeout=PATIENCE, cwd=ROOT
    )


def table(path: Path, delimiter: str = ",") -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file, delimiter=delimiter))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def journal_of(output: Path) -> Path:
    return output.with_name(output.name + ".journal")


def stop_when_begun(arguments: Sequence[str], output: Path, number: signal.Signals) -> tuple[int, str]:
    """Send a signal after the first rows are recorded; return exit status and standard error."""
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, cwd=ROOT) as child:
        journal, give_up = journal_of(output), time.monotonic() + PATIENCE
        while not (journal.exists() and journal.read_bytes().count(b"\n") > 8):
            assert child.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.005)
        child.send_signal(number)
        _, text = child.communicate(timeout=PATIENCE)
        return child.returncode, text


def test_bad_rows_stay_rows_and_the_status_says_so(model: Path, folder: Path) -> None:
    data = "id;image;text;label\n1;0.png;=x;gold\n2;absent.png;y;-\n3;1.png\n4;2.png;z;\n"
    (folder / "list.csv").write_bytes(data.encode("utf-8-sig"))
    done = run(model, folder / "list.csv", folder / "out.csv")
    assert (done.returncode, done.stdout) == (1, ""), done.stderr
    found = table(folder / "out.csv", ";")
    assert [row["id"] for row in found] == ["1", "2", "3", "4"]
    assert [row["code"] for row in found] == ["", "no_image", "too_few_columns", ""]
    assert [bool(row["ofa_label"]) for row in found] == [True, False, False, True]
    assert (found[0]["text"], found[1]["label"], found[0]["label"]) == ("'=x", "'-", "gold")
    assert found[1]["error"].startswith("line 3: ")
    assert not journal_of(folder / "out.csv").exists()
    assert not list(folder.glob("*.part"))


def test_the_verdicts_are_those_of_the_pipe(model: Path, folder: Path) -> None:
    pairs = [{"image": f"{number % 4}.png", "text": f"there are {number} circles"} for number in range(9)]
    (folder / "list.jsonl").write_text("".join(json.dumps({**pair, "n": 1}) + "\n" for pair in pairs))
    done = run(model, folder / "list.jsonl", folder / "out.jsonl")
    assert done.returncode == 0, done.stderr
    found = lines_of(folder / "out.jsonl")
    assert [list(one) for one in found] == [
        ["line", "image", "text", "n", "label", "score", "scores", "reason"]
    ] * len(pairs)
    piped = subprocess.run(
        [sys.executable, "-m", "ofa", "--model", str(model)],
        input="".join(json.dumps({**pair, "image": str(folder / pair["image"])}) + "\n" for pair in pairs),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
    )
    for one, other in zip(found, map(json.loads, piped.stdout.splitlines()), strict=True):
        assert one["line"] == other["line"]
        assert one["scores"] == pytest.approx(other["scores"], abs=0.02)


def test_a_killed_run_is_resumed(model: Path, long_list: Path) -> None:
    """Nothing is lost, and what was recorded is not judged again: a changed record ends up in the output."""
    output = long_list.with_name("out.csv")
    status, _ = stop_when_begun(command(model, long_list, output), output, signal.SIGKILL)
    assert status == -signal.SIGKILL
    assert not output.exists()
    journal = journal_of(output)
    recorded = journal.read_bytes().splitlines(keepends=True)
    marked = json.loads(recorded[1])
    journal.write_bytes(
        recorded[0]
        + json.dumps({**marked, "score": 0.123}).encode()
        + b"\n"
        + b"".join(line for line in recorded[2:] if line.endswith(b"\n"))
        + b'{"row": 5, "lab'
    )
    before = sum(line.endswith(b"\n") for line in recorded) - 1
    refused = run(model, long_list, output)
    assert (refused.returncode, "output_exists" in refused.stderr) == (USAGE, True)
    done = run(model, long_list, output, "--resume")
    assert done.returncode == 0, done.stderr
    assert f"{ROWS} rows, {before} of them before, 0 failed" in done.stderr
    found = table(output)
    assert [row["text"] for row in found] == [f"there are {number} circles" for number in range(ROWS)]
    assert all(row["label"] for row in found)
    assert [number for number, row in enumerate(found, 2) if row["score"] == "0.123000"] == [marked["row"]]
    assert not journal.exists()


def test_an_interrupted_run_says_how_to_continue(model: Path, long_list: Path) -> None:
    output = long_list.with_name("out.jsonl")
    status, text = stop_when_begun(command(model, long_list, output), output, signal.SIGINT)
    assert (status, "--resume" in text) == (INTERRUPTED, True)
    assert "Traceback" not in text
    assert journal_of(output).exists()
    changed = long_list.read_text().replace("circles", "squares", 1)
    long_list.write_text(changed)
    done = run(model, long_list, output, "--resume")
    assert (done.returncode, "list_changed" in done.stderr) == (USAGE, True)
    long_list.write_text(changed.replace("squares", "circles", 1))
    done = run(model, long_list, output, "--resume", "--text-column", "text")
    assert (done.returncode, "options_changed" in done.stderr) == (USAGE, True)
    done = run(model, long_list, output, "--resume")
    assert done.returncode == 0, done.stderr
    assert len(lines_of(output)) == ROWS


def test_an_output_is_never_overwritten(model: Path, folder: Path) -> None:
    (folder / "list.csv").write_text("image,text\n0.png,x\n")
    output = folder / "out.csv"
    output.write_text("precious")
    for more in ((), ("--resume",)):
        done = run(model, folder / "list.csv", output, *more)
        assert (done.returncode, "output_exists" in done.stderr) == (USAGE, True)
    assert output.read_text() == "precious"


def test_resuming_what_never_began_begins(model: Path, folder: Path) -> None:
    (folder / "list.csv").write_text("image,text\n0.png,x\n")
    assert run(model, folder / "list.csv", folder / "out.tsv", "--resume").returncode == 0
    assert [row["text"] for row in table(folder / "out.tsv", "\t")] == ["x"]


@pytest.mark.parametrize(
    ("content", "name", "code"),
    [
        ("image,words\na,b\n", "out.csv", "column_missing"),
        ("image,title,caption\na,b,c\n", "out.csv", "column_ambiguous"),
        ("image,text\n", "out.csv", "list_empty"),
        ("image,text\na,b\n", "out.doc", "output_form"),
        ("image,text\na,b\n", "absent/out.csv", "output_unwritable"),
    ],
)
def test_what_cannot_begin_is_refused_before_the_model_is_loaded(
    content: str, name: str, code: str, tmp_path: Path
) -> None:
    (tmp_path / "list.csv").write_text(content)
    done = run(tmp_path, tmp_path / "list.csv", tmp_path / name)  # not a model's folder
    assert (done.returncode, code in done.stderr) == (USAGE, True), done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--input", "list.csv"),
        ("--output", "out.csv"),
        ("--resume",),
        ("--text-column", "a"),
        ("--input", "list.csv", "--output", "out.csv", "--image", "a.png", "--text", "x"),
    ],
)
def test_options_that_do_not_go_together(arguments: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "ofa", "--model", "demo", *arguments],
        capture_output=True,
        cwd=ROOT,
        timeout=PATIENCE,
    )
    assert done.returncode == USAGE


def test_a_model_that_cannot_be_loaded_keeps_its_status(folder: Path) -> None:
    (folder / "list.csv").write_text("image,text\n0.png,x\n")
    assert run(folder, folder / "list.csv", folder / "out.csv").returncode == CONFIGURATION


def test_pictures_of_a_zip_and_of_a_folder(model: Path, folder: Path) -> None:
    listed = zipped(("x/list.tsv", b"file\tcaption\n0.png\tone\n/etc/passwd\ttwo\n"), ("x/0.png", PICTURE))
    (folder / "list.zip").write_bytes(listed)
    done = run(model, folder / "list.zip", folder / "zip.jsonl")
    assert done.returncode == 1, done.stderr
    assert [one.get("code") for one in lines_of(folder / "zip.jsonl")] == [None, "image_elsewhere"]
    (folder / "0.txt").write_text("one\ntwo\n")
    done = run(model, folder, folder / "pairs.csv")
    assert done.returncode == 1  # three pictures have no text
    found = table(folder / "pairs.csv")
    assert [(row["image"], row["text"], row["code"]) for row in found] == [
        *(("0.png", "one", ""), ("0.png", "two", "")),
        *((f"{number}.png", "", "no_text") for number in (1, 2, 3)),
    ]

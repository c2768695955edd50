"""The command on small data from the demo model's world, with the real model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from evaluation.__main__ import main
from lab.demo_training import easy_vqa
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from service.inference.native import NativePredictor
from tests.evaluation import models, world

SECONDS = 120.0  # a bound for a busy machine


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return world.draw(tmp_path_factory.mktemp("world") / "pictures", world.pairs())


def run(*arguments: object) -> int:
    return main([str(argument) for argument in arguments])


def report(folder: Path) -> Any:
    return json.loads((folder / "report.json").read_text())


def verdicts(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "verdicts.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("form", "write"),
    [
        ("snli-ve", lambda path, pictures: world.snli_ve(path, world.pairs())),
        ("e-snli-ve", lambda path, pictures: world.e_snli_ve(path, world.pairs())),
        ("ofa", lambda path, pictures: world.ofa_tsv(path, pictures, world.pairs())),
        ("list", lambda path, pictures: world.own_csv(path, world.pairs(), str(pictures))),
    ],
)
def test_the_demo_model_is_right_about_its_own_world(
    tmp_path: Path, pictures: Path, form: str, write: Callable[[Path, Path], Path]
) -> None:
    data = write(tmp_path / "data.csv", pictures)
    assert run(data, "--pictures", pictures, "--output", tmp_path / "out") == 0
    found = report(tmp_path / "out")
    assert found["data"]["format"] == form
    assert (found["data"]["rows"], found["data"]["judged"]) == (24, 24)
    assert list(found["conditions"]) == ["picture", "text"]  # the demo model refuses a premise
    assert found["conditions"]["picture"]["right"] >= 23
    assert found["conditions"]["text"]["right"] < found["conditions"]["picture"]["right"]
    assert not list((tmp_path / "out").glob("*.journal"))


@pytest.mark.parametrize(
    ("form", "write"), [("sugarcrepe", world.sugar_crepe), ("valse", world.valse), ("foil", world.foil)]
)
def test_the_right_caption_scores_above_the_wrong_one(
    tmp_path: Path, pictures: Path, form: str, write: Callable[..., Path]
) -> None:
    data, count = write(tmp_path / "data.json", world.pairs()), len(world.captions(world.pairs()))
    assert run(data, "--pictures", pictures, "--output", tmp_path / "out") == 0
    found = report(tmp_path / "out")
    assert (found["data"]["format"], found["data"]["judged"]) == (form, count)
    assert found["conditions"]["picture"]["right"] == count
    assert all(one["right"] == (one["yes"][0] > one["yes"][1]) for one in verdicts(tmp_path / "out"))


def test_pictures_that_nobody_here_made_are_evaluated(tmp_path: Path) -> None:
    easy_vqa.write(tmp_path)
    data = tmp_path / "pairs.csv"
    data.write_text("".join(data.read_text().splitlines(keepends=True)[:41]))
    assert run(data, "--output", tmp_path / "out", "--conditions", "picture", "--min-accuracy", "0.9") == 0
    assert report(tmp_path / "out")["conditions"]["picture"]["pairs"] == 40


def test_the_figures_are_of_the_verdicts_that_are_written(tmp_path: Path, pictures: Path) -> None:
    data = world.own_csv(tmp_path / "mine.csv", world.pairs(), str(pictures))
    assert run(data, "--output", tmp_path / "out") == 0
    found, lines = report(tmp_path / "out"), verdicts(tmp_path / "out")
    assert len(lines) == 2 * 24
    for name, figures in found["conditions"].items():
        right = [line["gold"] == max(line["scores"], key=line["scores"].get) for line in lines]
        right = [one for one, line in zip(right, lines, strict=True) if line["condition"] == name]
        assert (figures["pairs"], figures["right"]) == (24, sum(right))
        assert sum(one["pairs"] for one in figures["categories"].values()) == 24
    written = {path.name for path in (tmp_path / "out").iterdir()}
    plots = {"reliability.png", "risk-coverage.png", "confusion.png"}
    assert written == {"report.json", "report.md", "verdicts.jsonl"} | plots


def test_a_premise_is_evaluated_beside_the_picture_alone(tmp_path: Path, pictures: Path) -> None:
    data = world.snli_ve(tmp_path / "data.jsonl", world.pairs()[:8])
    model = models.with_premise(tmp_path / "model")
    assert run(data, "--pictures", pictures, "--model", model, "--output", tmp_path / "out") == 0
    found = report(tmp_path / "out")["conditions"]
    assert list(found) == ["picture", "premise", "text", "text-premise"]
    assert {figures["pairs"] for figures in found.values()} == {8}
    scores = {line["condition"]: line["scores"]["Yes"] for line in verdicts(tmp_path / "out")}
    assert len(set(scores.values())) == 4


def test_bad_rows_are_counted_and_listed(tmp_path: Path, pictures: Path) -> None:
    data = world.own_csv(tmp_path / "mine.csv", world.pairs()[:8], str(pictures))
    lines = data.read_text().splitlines()
    lines[2] = lines[2].replace(".jpg", ".gone")
    lines[4] = lines[4].replace(",Yes,", ",7,").replace(",No,", ",7,").replace(",Maybe,", ",7,")
    data.write_text("\n".join(lines))
    assert run(data, "--output", tmp_path / "out") == 1
    found = report(tmp_path / "out")
    assert (found["data"]["rows"], found["data"]["judged"]) == (8, 6)
    assert sum(found["data"]["bad"].values()) == 2
    assert [(one["line"], one["code"]) for one in found["bad_rows"]][1] == (5, "unknown_label")
    assert [one["line"] for one in found["bad_rows"]] == [3, 5]
    assert {figures["pairs"] for figures in found["conditions"].values()} == {6}


def test_data_of_which_nothing_can_be_judged_has_a_report_without_figures(tmp_path: Path) -> None:
    data = world.own_csv(tmp_path / "mine.csv", world.pairs()[:4], "elsewhere")
    assert run(data, "--output", tmp_path / "out", "--min-accuracy", "0.1") == 1
    found = report(tmp_path / "out")
    assert (found["conditions"], len(found["bad_rows"])) == ({}, 4)


def test_an_accuracy_below_the_wanted_one_fails(tmp_path: Path, pictures: Path) -> None:
    pairs = world.pairs()[:8]
    data = world.own_csv(tmp_path / "mine.csv", pairs, str(pictures))
    arguments = [data, "--output", tmp_path / "out", "--conditions", "picture", "--min-accuracy"]
    assert run(*arguments, "0.5") == 0
    accuracy = report(tmp_path / "out")["conditions"]["picture"]["accuracy"]["value"]
    assert accuracy > 0.5
    swapped = data.read_text().replace(",Yes,", ",?,").replace(",No,", ",Yes,").replace(",?,", ",No,")
    data.write_text(swapped.replace(",Maybe,", ",Yes,"))
    assert run(*arguments, "0.5") == 1
    assert report(tmp_path / "out")["data"]["bad"] == {}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--conditions", "premise"], "unsuitable_data"),
        (["--format", "sugarcrepe"], "unreadable_data"),
        (["--model", "./no/such/folder"], "model_not_found"),
    ],
)
def test_what_cannot_be_evaluated_is_refused_with_a_code(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], arguments: Sequence[str], code: str
) -> None:
    data = world.own_csv(tmp_path / "mine.csv", world.pairs()[:4], str(pictures))
    status = run(data, "--output", tmp_path / "out", *arguments)
    assert status == (78 if code == "model_not_found" else 2)
    assert f" {code}: " in capsys.readouterr().err
    assert not (tmp_path / "out" / "report.json").exists()


def test_without_its_packages_the_command_says_what_to_install(tmp_path: Path) -> None:
    code = "import sys; sys.modules['sklearn'] = None; from evaluation.__main__ import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data.csv")],
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 78
    assert " missing_dependency: " in done.stderr
    assert "requirements-evaluation.txt" in done.stderr


def test_a_killed_run_is_continued(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count = 400
    pairs = world.pairs(count)
    data = world.own_csv(tmp_path / "mine.csv", pairs, "pictures")
    world.draw(tmp_path / "pictures", pairs)
    out, journal = tmp_path / "out", tmp_path / "out" / "picture.journal"
    arguments = [str(data), "--conditions", "picture", "--output", str(out)]
    process = subprocess.Popen([sys.executable, "-m", "evaluation", *arguments], start_new_session=True)
    try:
        give_up = time.monotonic() + SECONDS
        while (
            not (journal.exists() and journal.read_bytes().count(b"\n") > 32) and time.monotonic() < give_up
        ):
            assert process.poll() is None
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    before = journal.read_bytes().count(b"\n") - 1
    assert 32 <= before < count
    assert not (out / "report.json").exists()

    judged = []
    judge = NativePredictor.judge

    def counting(self: NativePredictor, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Any:
        judged.append(len(pairs))
        return judge(self, pairs, cancel_point)

    monkeypatch.setattr(NativePredictor, "judge", counting)
    assert run(*arguments) == 0
    assert sum(judged) == count - before
    found = verdicts(out)
    assert [line["line"] for line in found] == list(range(2, count + 2))
    assert report(out)["conditions"]["picture"]["pairs"] == count


def test_an_interrupted_run_is_not_continued_with_other_data(
    tmp_path: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = world.own_csv(tmp_path / "mine.csv", world.pairs()[:4], str(pictures))
    arguments = (data, "--output", tmp_path / "out", "--conditions", "picture")
    with monkeypatch.context() as patch:
        patch.setattr("evaluation.results.Judgement.of", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(*arguments)
    data.write_text(data.read_text().replace(",No,", ",Yes,"))
    assert run(*arguments) == 2
    assert " list_changed: " in capsys.readouterr().err

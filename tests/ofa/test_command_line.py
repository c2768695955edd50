"""``python -m ofa`` as a child process."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from lab.instances.hub import Hub
from lab.instances.instance import ROOT
from ofa.checkpoint import find_weights
from service.contract.errors import SettingsError
from service.settings import Settings

CONFIGURATION = 78
PIPE_CLOSED = 141
MEGABYTE = 1 << 20
# A header that Pillow takes for a DDS picture, and a pixel format that it does not know.
DDS = b"DDS \x7c\0\0\0" + b"\0" * 68 + b"\x20\0\0\0\x04\0\0\0ZZZZ" + b"\0" * 40


def run(
    *arguments: str,
    lines: bytes | list[object] = b"",
    folder: Path = ROOT,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    if isinstance(lines, list):
        lines = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    return subprocess.run(
        [sys.executable, "-m", "ofa", *arguments],
        input=lines,
        capture_output=True,
        timeout=400,
        env={**os.environ, **(environment or {})},
        cwd=folder,
    )


def answers_of(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    """The answers; checks that nothing else was printed."""
    assert done.stderr == b""
    return [json.loads(line) for line in done.stdout.decode("utf-8").splitlines()]


@pytest.fixture
def picture_file(tmp_path: Path, picture: Image.Image) -> Path:
    picture.save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def test_one_pair_gives_one_line(random_folder: Path, picture_file: Path) -> None:
    done = run(
        "--model", str(random_folder), "--image", str(picture_file), "--text", "a circle", "--premise", "red"
    )
    assert done.returncode == 0, done.stderr
    (answer,) = answers_of(done)
    assert list(answer) == ["line", "image", "label", "score", "scores", "reason"]
    assert (answer["line"], answer["image"], answer["reason"]) == (1, str(picture_file), None)
    assert list(answer["scores"]) == ["Yes", "No", "Maybe"]
    assert answer["label"] == max(answer["scores"], key=answer["scores"].get)
    assert answer["score"] == answer["scores"][answer["label"]]


def test_each_text_gives_one_line(random_folder: Path, picture_file: Path) -> None:
    done = run("--model", str(random_folder), "--image", str(picture_file), "--text", "a", "--text", "b c d")
    assert done.returncode == 0, done.stderr
    first, second = answers_of(done)
    assert (first["line"], second["line"]) == (1, 2)
    assert first["scores"] != second["scores"]


def test_a_lines_trouble_is_its_own_error(random_folder: Path, picture_file: Path) -> None:
    """A bad line or a bad file does not affect other lines."""
    good = {"image": str(picture_file), "text": "a circle"}
    here = picture_file.parent
    os.mkfifo(here / "pipe.png")
    (here / "some.dds").write_bytes(DDS)
    (here / "text.png").write_text("no picture")
    (here / "cut.png").write_bytes(picture_file.read_bytes()[:80])
    cases: list[tuple[bytes | object, str | None]] = [
        (good, None),
        (b"not json", "malformed"),
        (b"[]", "malformed"),
        (b"[" * 100_000, "malformed"),
        (b'{"a":' * 100_000, "malformed"),
        (b'{"image": "caf\xe9", "text": "x"}', "malformed"),
        (b"\xff\xfe{\0}\0", "malformed"),
        (b"\0" * 100, "malformed"),
        (b'{"text": "' + b"x" * MEGABYTE + b'"}', "line_too_long"),
        (b"x" * 3 * MEGABYTE, "line_too_long"),
        (b"x" * (MEGABYTE - 1), "malformed"),
        ({**good, "id": [1]}, "malformed"),
        ({**good, "id": "x" * 300}, "malformed"),
        (json.dumps(good).encode()[:-1] + b', "n": ' + b"9" * 5_000 + b"}", None),
        ({**good, "image": "absent.png"}, "no_image"),
        ({"text": "a"}, "no_image"),
        ({**good, "image": 5}, "not_an_image"),
        ({**good, "image": "a\0b"}, "image_unreadable"),
        ({**good, "image": "a" * 5_000}, "image_unreadable"),
        ({**good, "image": "\ud800.png"}, "image_unreadable"),
        ({**good, "image": str(here / "pipe.png")}, "not_an_image"),
        ({**good, "image": "/dev/zero"}, "not_an_image"),
        ({**good, "image": str(here)}, "not_an_image"),
        ({**good, "image": str(here / "some.dds")}, "not_an_image"),
        ({**good, "image": str(here / "text.png")}, "not_an_image"),
        ({**good, "image": str(here / "cut.png")}, "image_truncated"),
        ({"image": str(picture_file)}, "no_text"),
        ({**good, "text": "\ud800"}, "no_text"),
        ({**good, "text": "x" * 5_000}, "text_too_long"),
        ({**good, "premise": 3}, "no_text"),
        ({**good, "text": "图中有一个红色的圆"}, "language"),
        ({**good, "premise": "图中有一个红色的圆"}, "language"),
        (b"\xef\xbb\xbf" + json.dumps(good).encode(), None),
        (b"", "blank"),
        ({**good, "id": "4705552913.jpg#2r1n"}, None),
        ({**good, "id": 7}, None),
    ]
    lines = [case if isinstance(case, bytes) else json.dumps(case).encode() for case, _ in cases]
    done = run("--model", str(random_folder), lines=b"\n".join(lines))
    assert done.returncode == 1
    answers = answers_of(done)
    expected = [(number, code) for number, (_, code) in enumerate(cases, 1) if code != "blank"]
    assert [(answer["line"], answer.get("code")) for answer in answers] == expected
    failed = [answer for answer in answers if "code" in answer]
    assert {answer["reason"] for answer in failed} == {"invalid"}
    assert all(answer["error"] and "label" not in answer for answer in failed)
    judged = [answer for answer in answers if "label" in answer]
    assert len({answer["score"] for answer in judged}) == 1
    assert {answer["reason"] for answer in judged} == {None}
    assert [answer["id"] for answer in answers if "id" in answer] == ["4705552913.jpg#2r1n", 7]
    named = {answer["line"]: answer.get("image") for answer in answers}
    assert (named[1], named[2], named[15], named[20]) == (str(picture_file), None, "absent.png", "\ud800.png")


def test_a_calibrated_model_adds_calibrated_scores_and_a_decision(
    random_folder: Path, picture_file: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(random_folder, tmp_path / "calibrated"))
    weights = hashlib.sha256(find_weights(folder).read_bytes()).hexdigest()
    content = {"format": 1, "weights_sha256": weights, "temperature": 5.0, "accept": 1.0, "review": 0.0}
    (folder / "calibration.json").write_text(json.dumps(content))
    (folder / "calibration.json").chmod(0o600)
    pair = ("--image", str(picture_file), "--text", "a circle")
    (raw,), (calibrated,) = (answers_of(run("--model", str(one), *pair)) for one in (random_folder, folder))
    assert calibrated["decision"] == "review"
    assert max(calibrated.pop("calibrated").values()) < raw["score"]
    del calibrated["decision"]
    assert calibrated == raw


def test_texts_in_any_language_are_judged_if_asked_for(random_folder: Path, picture_file: Path) -> None:
    pair = ("--image", str(picture_file), "--text", "图中有一个红色的圆")
    assert run("--model", str(random_folder), *pair, "--language", "any").returncode == 0
    assert run("--model", str(random_folder), *pair, "--language", "other").returncode == 78


@pytest.mark.parametrize("encoding", ["gbk", "latin-1", "ascii"])
def test_lines_are_utf_8_whatever_the_locale(encoding: str, random_folder: Path, picture_file: Path) -> None:
    name = picture_file.with_name("café-圖.png")
    picture_file.rename(name)
    line = json.dumps({"image": str(name), "text": "café 圖", "id": "é"}, ensure_ascii=False).encode()
    done = run(
        *("--model", str(random_folder)), lines=line, environment={"PYTHONIOENCODING": f"{encoding}:strict"}
    )
    assert done.returncode == 0, done.stdout
    (answer,) = answers_of(done)
    assert (answer["id"], answer["image"]) == ("é", str(name))


def test_a_closed_pipe_is_quiet(random_folder: Path, picture_file: Path) -> None:
    line = json.dumps({"image": str(picture_file), "text": "a circle"}).encode() + b"\n"
    with subprocess.Popen(
        [sys.executable, "-m", "ofa", "--model", str(random_folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdin.write(line)
        child.stdin.flush()
        assert child.stdout.readline()
        child.stdout.close()
        child.stdin.write(line * 2)
        child.stdin.close()
        assert (child.wait(300), child.stderr.read()) == (PIPE_CLOSED, b"")


def test_a_full_disk_is_a_sentence(random_folder: Path, picture_file: Path) -> None:
    command = [sys.executable, "-m", "ofa", "--model", str(random_folder)]
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [*command, "--image", str(picture_file), "--text", "a"],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=ROOT,
            timeout=400,
        )
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1


def test_transparency_is_judged_as_a_browser_shows_it(random_folder: Path, tmp_path: Path) -> None:
    """Red under full transparency, and a blue circle: on white, only the circle is seen."""
    clear, flat = Image.new("RGBA", (90, 90), (220, 38, 38, 0)), Image.new("RGB", (90, 90), "white")
    for picture in (clear, flat):
        ImageDraw.Draw(picture).ellipse((20, 20, 60, 60), fill=(37, 99, 235))
    clear.save(tmp_path / "clear.png")
    flat.save(tmp_path / "flat.png")
    pairs: list[object] = [
        {"image": str(tmp_path / name), "text": "a circle"} for name in ("clear.png", "flat.png")
    ]
    first, second = answers_of(run("--model", str(random_folder), lines=pairs))
    assert first["scores"] == second["scores"]


def test_it_runs_from_another_folder_as_the_readme_says(tmp_path: Path, picture_file: Path) -> None:
    pair = {"image": picture_file.name, "text": "there is a circle"}
    done = run("--model", "demo", lines=[pair], folder=tmp_path, environment={"PYTHONPATH": str(ROOT)})
    assert [answer["reason"] for answer in answers_of(done)] == [None]


def test_a_folder_without_a_model_is_reported_in_one_line(tmp_path: Path) -> None:
    done = run("--model", str(tmp_path))
    assert done.returncode == CONFIGURATION
    assert len(done.stderr.strip().splitlines()) == 1
    assert b"configuration.json" in done.stderr


def test_a_damaged_folder_is_not_worth_another_try(folder_copy: Path) -> None:
    os.truncate(folder_copy / "pytorch_model.bin", 1_000)
    done = run("--model", str(folder_copy))
    assert done.returncode == CONFIGURATION
    assert len(done.stderr.strip().splitlines()) == 1
    assert b"pytorch_model.bin" in done.stderr


def test_a_damaged_file_of_a_fetched_model_is_fetched_again(
    random_folder: Path, picture_file: Path, tmp_path: Path
) -> None:
    pair = ("--image", str(picture_file), "--text", "a circle")
    with Hub() as hub:
        hub.repositories["owner/model", "master"] = {
            path.name: path.read_bytes() for path in random_folder.iterdir()
        }
        environment = {"MODELSCOPE_ENDPOINT": hub.endpoint, "MODELSCOPE_CACHE": str(tmp_path / "cache")}
        first = run("--model", "owner/model", *pair, environment=environment)
        (weights,) = (tmp_path / "cache").rglob("pytorch_model.bin")
        status = weights.stat()
        with weights.open("r+b") as file:  # of the same size and time: only reading it shows
            file.write(b"\xff" * 4096)
        os.utime(weights, ns=(status.st_atime_ns, status.st_mtime_ns))
        shutil.rmtree(tmp_path / "cache" / "converted")  # or the file would not be read at all
        again = run("--model", "owner/model", *pair, environment=environment)
    assert (first.returncode, again.returncode) == (0, 0), again.stderr
    assert answers_of(again) == answers_of(first)


@pytest.mark.parametrize("arguments", [("--device", "tpu"), ("--device", "cuda:x"), ("--dtype", "int4")])
def test_a_wrong_value_is_refused_as_the_service_refuses_it(arguments: tuple[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings.from_args(arguments, {})
    done = run("--model", "demo", *arguments)
    assert done.returncode == CONFIGURATION
    assert caught.value.message.encode() in done.stderr


@pytest.mark.parametrize("arguments", [("--device", "cuda:99"), ("--device", "cpu", "--dtype", "fp16")])
def test_a_device_or_precision_that_is_not_there_is_a_sentence(
    arguments: tuple[str, ...], random_folder: Path
) -> None:
    done = run("--model", str(random_folder), *arguments)
    assert done.returncode == CONFIGURATION
    assert len(done.stderr.strip().splitlines()) == 1
    assert " ".join(arguments[-2:]).encode() in done.stderr


def test_a_picture_without_a_text_is_a_usage_error(random_folder: Path, picture_file: Path) -> None:
    assert run("--model", str(random_folder), "--image", str(picture_file)).returncode == 2

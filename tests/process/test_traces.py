"""Traces of a serving process: a log in the specified format, and no user text anywhere."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.instances.instance import ROOT, Instance

SECRET = "xylophonist"  # a word that no message contains
NOT_NEEDED = ("transformers", "fairseq", "torchvision", "torchaudio", "decord")

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \| [A-Z]{4,8} {0,4} \| \S.*")
START = re.compile(r"REQUEST_START \| (req_\d+_\w+) \| TEXT_LEN=(\d+) \| IMG_SIZE=\((\d+), (\d+)\)( \| .*)?")
END = re.compile(
    r"REQUEST_END \| (req_\d+_\w+) \| LABEL=(Yes|No|Maybe) \| SCORE=\d\.\d{3} \| DURATION=\d+\.\d\ds( \| .*)?"
)


@pytest.fixture(scope="module")
def judged(running_service: Instance, red_circle: bytes) -> Instance:
    """The instance after a verdict and after texts that it cleaned or refused."""
    running_service.judge(red_circle, f"there is a {SECRET}")
    running_service.judge(red_circle, f"there is\u200b a \x07{SECRET}")
    for refused in (
        (red_circle, f"{SECRET} " * 200),
        (red_circle, "there is a red circle", f"a {SECRET} is near"),  # the demo model takes no premise
        (SECRET.encode() * 50, f"there is a {SECRET}"),
    ):
        with pytest.raises(AssertionError, match="event: error"):
            running_service.judge(*refused)
    return running_service


def test_every_log_line_has_the_specified_format(judged: Instance) -> None:
    lines = judged.log.splitlines()
    assert lines
    assert [line for line in lines if not LINE.fullmatch(line) or line[30:33] != " | "] == []


def test_a_request_is_logged_by_its_start_and_its_end(judged: Instance) -> None:
    asked = f"there is a {SECRET}"

    def messages(form: re.Pattern[str]) -> list[re.Match[str]]:
        told = (line.split(" | ", 2)[2] for line in judged.log.splitlines())
        return [found for message in told if (found := form.fullmatch(message))]

    of_ours = {one[1] for one in messages(START) if one.group(2, 3, 4) == (str(len(asked)), "256", "192")}
    assert of_ours
    # The answer is sent before its line is written.
    judged.wait_for("their ends", lambda: of_ours <= {one[1] for one in messages(END)}, 60.0)


def test_no_text_of_a_user_is_written_anywhere(judged: Instance) -> None:
    files = [path for path in judged.run_dir.rglob("*") if path.is_file()]
    assert {"web_app.log", "output.txt"} <= {path.name for path in files}
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []


def test_the_running_service_imports_nothing_of_the_model_zoo(
    start: Callable[..., Instance], red_circle: bytes
) -> None:
    """Python lists every import of the unmodified process through a verdict."""
    instance = start("--model", "demo", interpreter=["-X", "importtime"])
    instance.wait_healthy()
    instance.judge(red_circle, "there is a red circle")
    assert instance.terminate() == 0
    lines = re.findall(r"^import time:.*\|\s*(\S+)$", instance.output, re.MULTILINE)
    imported = {name.partition(".")[0] for name in lines}
    assert {"torch", "gradio", "flask", "ofa"} <= imported
    assert not imported & {*NOT_NEEDED, "modelscope", "tests"}


def test_importing_the_names_that_scripts_use_starts_nothing(tmp_path: Path) -> None:
    script = """
import json, sys, threading
from web_app import health_check, init_model, predict
print(json.dumps([threading.active_count(), sorted({"torch", "gradio", "modelscope"} & set(sys.modules))]))
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=240, check=True
    )
    assert json.loads(done.stdout) == [1, []]

"""The doctor as people and programs call it: its output, its exit status, and guardian.sh doctor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from doctor.report import table
from lab.instances.instance import ROOT
from tests.doctor.record import LOGS


def doctor(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "doctor", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_finding_is_told_with_its_lines_why_and_what_to_do() -> None:
    told = doctor(LOGS / "wrong-id")
    assert told.returncode == 2
    assert "CRITICAL  model-not-found: There is no such model" in told.stdout
    assert "    | web_app.log:" in told.stdout
    assert "    why: " in told.stdout
    assert "    do:  Correct --model" in told.stdout
    assert "1 finding in " in told.stdout


def test_healthy_logs_are_told_in_one_line_and_end_with_nothing() -> None:
    told = doctor(LOGS / "healthy")
    assert (told.returncode, told.stderr) == (0, "")
    (line,) = told.stdout.splitlines()
    assert line.startswith("Nothing found in ")


def test_a_program_gets_one_object() -> None:
    told = json.loads(doctor(LOGS / "cut", "--json").stdout)
    (finding,) = told["findings"]
    assert told["status"] == 2
    assert (finding["code"], finding["severity"], finding["over"]) == ("download-cut", "critical", False)
    assert finding["evidence"]
    assert finding["since"] <= finding["until"]


def test_the_folder_is_that_of_the_service_unless_given() -> None:
    assert "hub-unreachable" in doctor(OFA_RUN_DIR=str(LOGS / "no-network")).stdout


@pytest.mark.parametrize("arguments", [["--nonsense"], ["a", "b"]])
def test_wrong_usage_is_not_taken_for_a_finding(arguments: list[str]) -> None:
    assert doctor(*arguments).returncode == 64


def test_a_folder_without_logs_is_not_taken_for_a_healthy_one(tmp_path: Path) -> None:
    told = doctor(tmp_path)
    assert (told.returncode, told.stdout) == (64, "")
    assert f"no logs in {tmp_path}" in told.stderr


def test_the_guardian_calls_the_doctor_for_its_folder() -> None:
    told = subprocess.run(
        [ROOT / "guardian.sh", "doctor", "--", "--json"],
        env=os.environ | {"OFA_RUN_DIR": str(LOGS / "wrong-id"), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 2, told.stderr
    assert [one["code"] for one in json.loads(told.stdout)["findings"]] == ["model-not-found"]


def test_the_guardian_hands_the_language_on() -> None:
    told = subprocess.run(
        [ROOT / "guardian.sh", "doctor", "--", "--lang", "zh"],
        env=os.environ | {"OFA_RUN_DIR": str(LOGS / "wrong-id"), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 2, told.stderr
    assert "没有这个模型" in told.stdout


def test_the_doctor_needs_nothing_but_python() -> None:
    """It must work where the service cannot start for want of a package."""
    told = subprocess.run(
        [
            sys.executable,
            "-I",
            "-S",
            "-c",
            f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
            f"from doctor.__main__ import main; sys.exit(main([{str(LOGS / 'wrong-id')!r}]))",
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert told.returncode == 2, told.stderr


def test_the_runbook_has_every_finding_and_its_cure() -> None:
    assert table() in (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")

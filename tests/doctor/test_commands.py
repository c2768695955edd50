"""The doctor's command line: output, exit status, and ``guardian.sh doctor``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from doctor.findings import PROBLEMS
from doctor.report import table
from lab.instances.instance import ROOT
from tests.doctor.coverage import documents
from tests.doctor.record import LOGS


def doctor(
    *arguments: object, module: str = "doctor", **environment: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("module", ["doctor", "service.doctor"])
def test_a_finding_is_printed_with_its_lines_cause_and_fix(module: str) -> None:
    done = doctor(LOGS / "wrong-id", module=module)
    assert done.returncode == 2, done.stderr
    assert f"CRITICAL  model-not-found: {PROBLEMS['en']['model-not-found.title']}" in done.stdout
    assert "    | web_app.log:" in done.stdout
    assert "    why: " in done.stdout
    assert "    fix: Correct --model" in done.stdout


def test_healthy_logs_are_one_line_and_exit_status_0() -> None:
    done = doctor(LOGS / "healthy")
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1


def test_json_is_one_object() -> None:
    report = json.loads(doctor(LOGS / "cut", "--json").stdout)
    (finding,) = report["findings"]
    assert report["status"] == 2
    assert (finding["code"], finding["severity"], finding["resolved"]) == ("download-cut", "critical", False)
    assert finding["evidence"]
    assert finding["since"] <= finding["until"]


def test_the_default_folder_is_the_run_directory() -> None:
    assert "hub-unreachable" in doctor(OFA_RUN_DIR=str(LOGS / "no-network")).stdout


@pytest.mark.parametrize("arguments", [["--nonsense"], ["a", "b"]])
def test_wrong_usage_is_not_taken_for_a_finding(arguments: list[str]) -> None:
    assert doctor(*arguments).returncode == 64


def test_a_folder_without_logs_is_not_taken_for_a_healthy_one(tmp_path: Path) -> None:
    refused = doctor(tmp_path)
    assert (refused.returncode, refused.stdout) == (64, "")
    assert str(tmp_path) in refused.stderr


def test_the_guardian_calls_the_doctor_for_its_folder() -> None:
    done = subprocess.run(
        [ROOT / "guardian.sh", "doctor", "--", "--json"],
        env=os.environ | {"OFA_RUN_DIR": str(LOGS / "wrong-id"), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert [one["code"] for one in json.loads(done.stdout)["findings"]] == ["model-not-found"]


def test_the_guardian_passes_the_language_on() -> None:
    done = subprocess.run(
        [ROOT / "guardian.sh", "doctor", "--", "--lang", "zh"],
        env=os.environ | {"OFA_RUN_DIR": str(LOGS / "wrong-id"), "PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2, done.stderr
    assert PROBLEMS["zh"]["model-not-found.title"] in done.stdout


def test_the_doctor_needs_no_package() -> None:
    """It must work where the service cannot start because a package is missing."""
    done = subprocess.run(
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
    assert done.returncode == 2, done.stderr


def test_the_documentation_has_every_finding_and_its_fix() -> None:
    assert table() in documents()

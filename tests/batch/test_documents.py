"""The commands in docs/batches.md do what it says."""

from __future__ import annotations

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from batch.columns import NAMES
from lab.instances.instance import ROOT
from service.contract.causes import LineCode, ListCode, RunCode

DOCUMENT = (ROOT / "docs" / "batches.md").read_text(encoding="utf-8")


def test_the_commands_run(tmp_path: Path) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    blocks = re.findall(r"^```bash\n(.*?)^```", DOCUMENT, re.MULTILINE | re.DOTALL)
    local = [block for block in blocks if "python -m ofa" in block]
    assert len(local) == 3
    for block in local:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
    with (tmp_path / "verdicts.csv").open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [(row["price"], row["label"], row["code"]) for row in found] == [("5", "Yes", ""), ("7", "No", "")]
    for name in ("captions.jsonl", "answers.jsonl"):
        (line,) = (tmp_path / name).read_text().splitlines()
        assert json.loads(line)["label"] == "Yes", name


@pytest.mark.parametrize("code", [*LineCode, *ListCode, *RunCode])
def test_every_code_is_explained(code: str) -> None:
    assert f"`{code}`" in DOCUMENT


def test_the_preferred_names_are_documented() -> None:
    assert {first for first, *_ in NAMES.values() if f"`{first}`" not in DOCUMENT} == set()

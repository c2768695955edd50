"""A model folder that is wrong in any way is refused at once, by the name of what is wrong, within bounds.

Each is loaded as the service loads it, in a process whose memory is limited: what allocates before it checks
fails there.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lab.instances.instance import ROOT
from service.contract.causes import ExitCode
from tests.inference.hostile import CASES, copy

Load = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="module")
def load() -> Iterator[Load]:
    command = [sys.executable, "-m", "tests.inference.loading_child"]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        asked, answers = child.stdin, child.stdout

        def load(folder: Path) -> dict[str, Any]:
            asked.write(f"{folder}\n")
            asked.flush()
            found: dict[str, Any] = json.loads(answers.readline())
            return found

        yield load
        asked.close()


@pytest.mark.parametrize("name", CASES)
def test_a_folder_is_refused_by_what_is_wrong_or_loads(name: str, load: Load, tmp_path: Path) -> None:
    case, folder = CASES[name], copy(tmp_path / "model")
    case.spoil(folder)
    found = load(folder)
    if not case.named:
        assert (found["error"], found["attempts"]) == (None, ["loaded"]), found
        return
    assert (found["exit"], len(found["attempts"])) == (ExitCode.CONFIGURATION, 1), found
    assert [word for word in case.named if word not in found["message"]] == [], found["message"]
    assert len(found["message"]) < 1_000
    assert "\n" not in found["message"]
    assert not (ROOT / "intruded").exists()

"""docs/scaling.md: a test runs each of its commands, or the document says that it has never been run."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from cluster import local
from cluster.__main__ import main
from lab import ROOT
from tests.scaling import DOCUMENT, blocks

#: The last words of the line above a block of commands that no test can run.
NEVER = "never been run:"
#: The beginning of a command, the test that runs it, and by which words.
RUN = {
    "./guardian.sh fleet start": (
        "tests/guardian/test_fleet_of_instances.py",
        'documented("./guardian.sh fleet start")',
    ),
    "OFA_RUN_DIR=front": ("tests/remote/test_process.py", 'documented("OFA_RUN_DIR=front")'),
    "(umask 077; python -m service.api_keys make front": (
        "tests/remote/test_key.py",
        'documented("(umask 077; python -m service.api_keys make front")',
    ),
    "haproxy -c": ("tests/deploy/test_balancers.py", 'documented("haproxy -c")'),
    # Without make, which would install Ray; the test below compares the two.
    "make cluster": ("tests/cluster/starting.py", 'Instance(run_dir, "cluster", "--replicas"'),
}
COMMANDS = [command for above, commands in blocks() if not above.endswith(NEVER) for command in commands]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_every_block_is_found() -> None:
    assert 2 * len(blocks()) == len(re.findall(r"^ *```", DOCUMENT, re.MULTILINE))
    assert all(commands for _, commands in blocks())


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_test_runs_the_command_unless_it_is_marked(command: str) -> None:
    known = [start for start in RUN if command.startswith(start)]
    assert known, f"no test runs it, and the line above its block does not end with '{NEVER}'"
    for start in known:
        file, words = RUN[start]
        assert words in (ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.startswith("make cluster")])
def test_make_cluster_starts_the_cluster_with_arguments_that_it_accepts(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dry = subprocess.run(
        [*shlex.split(command), "--dry-run", "--no-print-directory"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},  # without variables of a make that runs this test
        capture_output=True,
        text=True,
        check=True,
    )
    python, *arguments = shlex.split(dry.stdout.splitlines()[-1])
    assert [Path(python).name, *arguments[:2]] == ["python", "-m", "cluster"]
    monkeypatch.setattr(local, "serve_until_signal", lambda *_: 0)
    assert main(arguments[2:]) == 0


def test_no_entry_is_left_of_a_command_that_is_gone() -> None:
    assert [start for start in RUN if not any(command.startswith(start) for command in COMMANDS)] == []


@pytest.mark.parametrize(
    "command", sorted(set(re.findall(r"`((?:make|\.venv/bin/python) [^`]+)`", DOCUMENT)))
)
def test_a_command_within_a_sentence_can_be_run(command: str) -> None:
    words = command.split()
    if words[0] == "make":
        assert re.search(rf"^{words[1]}:", MAKEFILE, re.MULTILINE)
        for chosen in re.findall(r"-k (\w+)", command):
            assert any(chosen in path.stem for path in (ROOT / "tests").rglob("test_*.py"))
    else:
        assert words[1] == "-m"
        module = ROOT.joinpath(*words[2].split("."))
        assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()

"""The post-mortem file, and the native stack dump of a stalled process."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

from lab.instances.instance import ROOT
from service.process import postmortem
from tests.fakes import PATIENCE

STALLED = """
import ctypes, pathlib, sys
from service.process.postmortem import StallDump
dump = StallDump(pathlib.Path(sys.argv[1]), seconds=float(sys.argv[3]))
dump.start()
def keep_the_lock():
    ctypes.PyDLL(None).usleep(int(float(sys.argv[2]) * 1e6))
keep_the_lock()
dump.stop()
"""


def stall(run_dir: Path, seconds: float, limit: float = 0.5) -> Path:
    """A process in which no Python runs for ``seconds``; a stall is detected after ``limit``."""
    arguments = [str(run_dir), str(seconds), str(limit)]
    subprocess.run([sys.executable, "-c", STALLED, *arguments], cwd=ROOT, check=True, timeout=240)
    return run_dir / postmortem.STALL_FILE


def test_the_file_has_the_process_the_reason_and_every_thread(tmp_path: Path) -> None:
    go, there = threading.Event(), threading.Event()

    def wait_here() -> None:
        there.set()
        go.wait(PATIENCE)

    thread = threading.Thread(target=wait_here, name="the waiting one")
    thread.start()
    assert there.wait(PATIENCE)
    try:
        path = postmortem.write(tmp_path, "It hung.", {"STUCK": ["req_1: 5 chars"]})
    finally:
        go.set()
        thread.join()
    assert path is not None
    text = path.read_text()
    assert text.startswith(f"It hung.\nprocess {os.getpid()}, ")
    assert "\nSTUCK\n  req_1: 5 chars\n" in text
    assert "the waiting one (thread " in text
    assert "in wait_here" in text
    assert "MainThread" in text


def test_the_newest_few_are_kept(tmp_path: Path) -> None:
    for number in range(1, 9):
        (tmp_path / f"postmortem-100000000{number}-1.txt").touch()
    path = postmortem.write(tmp_path, "It hung.", {})
    assert path is not None
    names = sorted(file.name for file in tmp_path.iterdir())
    assert names == [*(f"postmortem-100000000{number}-1.txt" for number in (5, 6, 7, 8)), path.name]


def test_an_unwritable_folder_is_not_fatal(tmp_path: Path) -> None:
    assert postmortem.write(tmp_path / "missing", "It hung.", {}) is None


def test_a_process_with_a_blocked_gil_leaves_its_stacks(tmp_path: Path) -> None:
    text = stall(tmp_path, 3.0).read_text()
    assert "Timeout (0:00:00.5" in text
    assert "in keep_the_lock" in text


def test_a_running_process_dumps_nothing(tmp_path: Path) -> None:
    # Longer than any delay of a slow machine.
    assert not stall(tmp_path, 0.0, limit=300.0).exists()


def test_the_dump_of_a_process_that_was_killed_is_kept_by_the_next_one(tmp_path: Path) -> None:
    (tmp_path / postmortem.STALL_PART).write_text("Timeout: the stacks of a killed process\n")
    path = stall(tmp_path, 0.0, limit=300.0)
    assert path.read_text() == "Timeout: the stacks of a killed process\n"
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_dumps_are_appended_and_a_long_file_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / postmortem.STALL_FILE
    path.write_text("an older dump\n")
    assert stall(tmp_path, 2.0).read_text().startswith("an older dump\nTimeout")
    path.write_text("x" * (postmortem.STALL_BYTES + 1))
    assert stall(tmp_path, 2.0).read_text().startswith("Timeout")

"""The main loop's reasons to end, and the run directory's lock."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from lab.instances.instance import ROOT
from service import main
from service.contract.causes import ExitCode
from service.contract.errors import SettingsError
from service.health.prober import Prober
from service.health.resources import Resources, Sampler
from tests.applications import Build
from tests.fakes import PATIENCE, until


@dataclass
class Part:
    alive: bool = True


def test_a_server_thread_that_has_died_ends_the_process(make: Build) -> None:
    application = make()
    parts = {"health": Part(), "front": Part(alive=False)}
    code, reason = main._wait(application.supervisor, parts, main.Signals())
    assert (code, reason) == (ExitCode.LOAD_FAILED, "the thread front ended")


def test_a_prober_whose_thread_has_died_ends_the_process_and_a_stopped_one_does_not(
    make: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Prober, "_run", lambda self: None)  # as if an error had ended it
    application = make()
    application.supervisor.load()
    until(lambda: application.supervisor.dead_threads() == ["prober"])
    code, reason = main._wait(application.supervisor, {"health": Part()}, main.Signals())
    assert (code, reason) == (ExitCode.LOAD_FAILED, "the thread prober ended")
    application.supervisor.stop(0.0)
    assert application.supervisor.dead_threads() == []


def test_a_sampler_whose_thread_runs_or_was_stopped_is_not_dead(tmp_path: Path) -> None:
    seen: list[Resources] = []
    sampler = Sampler([tmp_path], lambda: None, on_sample=[seen.append])
    assert not sampler.dead
    sampler.start()
    until(lambda: bool(seen))
    assert not sampler.dead
    sampler.stop(PATIENCE)
    assert not sampler.dead


def held(run_dir: Path) -> int:
    lock = main.lock_run_dir(run_dir, must_write=True)
    assert lock is not None
    return lock


def test_a_run_directory_has_one_instance(tmp_path: Path) -> None:
    first = held(tmp_path)
    with pytest.raises(SettingsError) as caught:
        held(tmp_path)
    assert (caught.value.code, caught.value.exit_code) == ("run_dir_taken", 78)
    assert "--run-dir" in caught.value.remedy
    os.close(first)
    os.close(held(tmp_path))


HOLD = """
import pathlib, sys
from service.main import lock_run_dir
lock_run_dir(pathlib.Path(sys.argv[1]), True)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("end", [subprocess.Popen.kill, subprocess.Popen.terminate])
def test_the_lock_goes_with_its_process_however_that_ends(
    tmp_path: Path, end: Callable[[subprocess.Popen[str]], None]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SettingsError):
            held(tmp_path)
        end(holder)
        holder.wait(PATIENCE)
        os.close(held(tmp_path))

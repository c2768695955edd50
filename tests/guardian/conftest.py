"""Fixtures: run folders, with a stand-in for the service."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.instances.guarded import PATIENCE, Guarded

STAND_IN = Path(__file__).resolve().parent / "stand_in.py"


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """An interpreter that runs the stand-in in place of web_app.py."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -SE {shlex.quote(str(STAND_IN))} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def folder(tmp_path: Path, interpreter: Path) -> Iterator[Callable[..., Guarded]]:
    """Make run folders; keywords are settings of the guardian."""
    with ExitStack() as running:
        yield lambda name="run", **settings: running.enter_context(
            Guarded(tmp_path / name, interpreter, **settings)
        )


@pytest.fixture
def guarded(folder: Callable[..., Guarded]) -> Guarded:
    return folder()


@pytest.fixture
def in_pid_namespace(guarded: Guarded) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command as process 1 of a new PID namespace with its own /proc, in the guardian's environment."""

    def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *command],
            env=guarded.environment,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        if "Operation not permitted" in done.stderr:
            pytest.skip("no PID namespaces here")
        return done

    return run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A run folder on a file system of its own."""
    path = tmp_path / "run"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no mounts here")
    yield path
    subprocess.run(["umount", "-l", path], check=True)

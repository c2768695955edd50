"""Fixtures of the guardian's tests: run folders, with a stand-in for the service."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from lab.instances.guarded import Guarded

STAND_IN = Path(__file__).resolve().parent / "stand_in.py"


@pytest.fixture
def interpreter(tmp_path: Path) -> Path:
    """What the guardian takes for Python: runs the stand-in in place of web_app.py."""
    path = tmp_path / "python"
    path.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -SE {shlex.quote(str(STAND_IN))} "$@"\n')
    path.chmod(0o755)
    return path


@pytest.fixture
def folder(tmp_path: Path, interpreter: Path) -> Iterator[Callable[..., Guarded]]:
    """Makes run folders; settings of the guardian as keywords."""
    with ExitStack() as running:
        yield lambda name="run", **settings: running.enter_context(
            Guarded(tmp_path / name, interpreter, **settings)
        )


@pytest.fixture
def guarded(folder: Callable[..., Guarded]) -> Guarded:
    return folder()


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

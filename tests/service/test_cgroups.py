"""The quota of processor time: files of both versions, and torch's threads in real groups."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.cgroups import core_limit
from tests.marks import as_root

ROOT = Path(__file__).resolve().parents[2]
V1 = Path("/sys/fs/cgroup/cpu")
# Prints the threads that torch computes with once the model is loaded.
LOAD = """
import sys, torch
from pathlib import Path
from service.inference.native import NativePredictor
NativePredictor(device="cpu", threads=int(sys.argv[1])).load(Path("models/demo"))
print(torch.get_num_threads())
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The list of our groups, on a machine of 64 cores."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    path = tmp_path / "own"
    path.write_text("5:memory:/m\n4:cpu,cpuacct:/pod/box\n0::/pod/box\n")
    return path


def group(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"cpu.{name}").write_text(text + "\n")


@pytest.mark.parametrize(
    ("inner", "outer", "expected"),
    [
        ("150000 100000", "max 100000", 2),
        ("50000 100000", "max 100000", 1),
        ("max 100000", "300000 100000", 3),
        ("800000 100000", "300000 100000", 3),
        ("max 100000", "max 100000", 0),
        ("6400000 100000", "max 100000", 0),
        ("", "rubbish", 0),
    ],
)
def test_the_tightest_v2_quota_counts_rounded_up(
    tmp_path: Path, own: Path, inner: str, outer: str, expected: int
) -> None:
    group(tmp_path / "pod", max=outer)
    group(tmp_path / "pod" / "box", max=inner)
    assert core_limit(tmp_path, own) == expected


@pytest.mark.parametrize(("quota", "expected"), [("150000", 2), ("-1", 0)])
def test_a_v1_quota_counts(tmp_path: Path, own: Path, quota: str, expected: int) -> None:
    group(tmp_path / "cpu" / "pod" / "box", cfs_quota_us=quota, cfs_period_us="100000")
    assert core_limit(tmp_path, own) == expected


def test_in_a_container_our_group_is_the_root_of_what_is_mounted(tmp_path: Path, own: Path) -> None:
    group(tmp_path, max="200000 100000")
    assert core_limit(tmp_path, own) == 2


def test_without_groups_nothing_is_limited(tmp_path: Path) -> None:
    assert core_limit(tmp_path, tmp_path / "missing") == 0


def test_threads_asked_of_openmp_are_left_to_torch(
    tmp_path: Path, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group(tmp_path, max="200000 100000")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert core_limit(tmp_path, own) == 0


@pytest.fixture
def half_a_core() -> Iterator[Path]:
    """A real cgroup v1 with half a core."""
    folder = V1 / f"ofa-test-{os.getpid()}"
    try:
        folder.mkdir()
    except OSError as error:
        pytest.skip(f"no cpu cgroup can be made here ({error.strerror})")
    (folder / "cpu.cfs_quota_us").write_text("50000")
    yield folder
    folder.rmdir()


def loaded(*command: str, threads: int = 0) -> int:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    done = subprocess.run(
        [*command, sys.executable, "-c", LOAD, str(threads)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@as_root
@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core has one thread in any case")
@pytest.mark.parametrize(("asked", "expected"), [(0, 1), (2, 2)])
def test_a_real_quota_limits_torch_unless_threads_are_asked_for(
    half_a_core: Path, asked: int, expected: int
) -> None:
    enter = f'echo $$ > {half_a_core}/cgroup.procs; exec "$@"'
    assert loaded("sh", "-c", enter, "sh", threads=asked) == expected


def test_the_cores_that_a_process_may_use_limit_torch() -> None:
    assert loaded("taskset", "-c", str(min(os.sched_getaffinity(0)))) == 1

"""Memory, disk and GPU figures: which limit applies, and unreadable values."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import psutil
import pytest

from service.health.resources import (
    Resources,
    Sampler,
    Use,
    disk_use,
    memory_left,
    memory_use,
    process_start_ticks,
)
from tests.fakes import PATIENCE, until

MEGABYTE = 1 << 20


def group(folder: Path, **files: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in files.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")
    return folder


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own"
    path.write_text(text)
    return path


def test_a_v2_limit_is_what_memory_is_judged_by_and_dropped_cache_does_not_count(tmp_path: Path) -> None:
    group(
        tmp_path / "a" / "b",
        memory__max=100 * MEGABYTE,
        memory__current=90 * MEGABYTE,
        memory__stat=f"anon 1\ninactive_file {30 * MEGABYTE}",
    )
    use, by = memory_use(tmp_path, own(tmp_path, "0::/a/b\n"))
    assert (use, by) == (Use(60 * MEGABYTE, 100 * MEGABYTE), "cgroup")


def test_the_tightest_group_above_us_counts(tmp_path: Path) -> None:
    group(tmp_path / "a", memory__max=100 * MEGABYTE, memory__current=95 * MEGABYTE)
    group(tmp_path / "a" / "b", memory__max=80 * MEGABYTE, memory__current=10 * MEGABYTE)
    use, _ = memory_use(tmp_path, own(tmp_path, "0::/a/b\n"))
    assert use == Use(95 * MEGABYTE, 100 * MEGABYTE)


def test_what_is_left_is_left_under_every_limit(tmp_path: Path) -> None:
    """The tightest by share is not the one that leaves least."""
    group(tmp_path / "a", memory__max=100 * MEGABYTE, memory__current=95 * MEGABYTE)
    group(tmp_path / "a" / "b", memory__max=8 * MEGABYTE, memory__current=4 * MEGABYTE)
    assert memory_left(tmp_path, own(tmp_path, "0::/a/b\n")) == 4 * MEGABYTE
    group(tmp_path / "a" / "b", memory__current=9 * MEGABYTE)
    assert memory_left(tmp_path, own(tmp_path, "0::/a/b\n")) == 0


def test_in_a_container_our_group_is_the_root_of_what_is_mounted(tmp_path: Path) -> None:
    group(tmp_path, memory__max=100 * MEGABYTE, memory__current=50 * MEGABYTE)
    use, by = memory_use(tmp_path, own(tmp_path, "0::/docker/0123\n"))
    assert (use.total, by) == (100 * MEGABYTE, "cgroup")


def test_a_v1_limit_counts_too(tmp_path: Path) -> None:
    group(
        tmp_path / "memory" / "job",
        memory__limit_in_bytes=100 * MEGABYTE,
        memory__usage_in_bytes=99 * MEGABYTE,
        memory__stat=f"total_inactive_file {9 * MEGABYTE}",
    )
    use, by = memory_use(tmp_path, own(tmp_path, "5:cpu,cpuacct:/x\n4:memory:/job\n0::/\n"))
    assert (use, by) == (Use(90 * MEGABYTE, 100 * MEGABYTE), "cgroup")


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096), "nonsense"])
def test_no_real_limit_leaves_the_machines_memory(limit: str, tmp_path: Path) -> None:
    group(tmp_path, memory__max=limit, memory__current=1)
    use, by = memory_use(tmp_path, own(tmp_path, "0::/\n"))
    assert (use.total, by) == (psutil.virtual_memory().total, "host")


def test_no_cgroups_at_all_is_fine(tmp_path: Path) -> None:
    assert memory_use(tmp_path, tmp_path / "none")[1] == "host"


def test_a_folder_that_is_not_there_yet_has_the_disk_of_its_parent(tmp_path: Path) -> None:
    assert disk_use(tmp_path / "not" / "yet").total == disk_use(tmp_path).total > 0


def test_the_gpu_is_sampled_by_its_own_thread_and_a_failing_driver_survived(
    tmp_path: Path,
) -> None:
    asked = threading.Semaphore(0)
    answers: list[object] = [("A card", 5, 10), RuntimeError("driver"), ("A card", 6, 10)]
    threads: set[str] = set()

    def gpu() -> tuple[str, int, int] | None:
        threads.add(threading.current_thread().name)
        asked.release()
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer  # type: ignore[return-value]

    sampler = Sampler([tmp_path], gpu, period=0.01)
    assert sampler.latest().gpu is None  # before the thread: nothing is asked of the driver
    sampler.start()
    for _ in range(4):
        assert asked.acquire(timeout=PATIENCE)
    sampler.stop()
    latest = sampler.latest()
    assert (latest.gpu, latest.gpu_name) == (Use(6, 10), "A card")
    assert latest.process_memory > 0
    assert threads == {"resources"}


def test_a_process_is_named_by_its_start() -> None:
    ticks = process_start_ticks()
    assert ticks == process_start_ticks() > 0
    started = psutil.boot_time() + ticks / os.sysconf("SC_CLK_TCK")
    assert abs(started - psutil.Process().create_time()) < 2


def test_a_receiver_that_fails_keeps_the_sample_from_no_other_and_is_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[Resources] = []

    def fail(sample: Resources) -> None:
        raise RuntimeError("a bug")

    sampler = Sampler([tmp_path], lambda: None, period=0.01, on_sample=[fail, seen.append])
    sampler.start()
    until(lambda: len(seen) > 3)
    sampler.stop(PATIENCE)
    assert [record.getMessage().split(" | ")[0] for record in caplog.records] == ["RESOURCES"]

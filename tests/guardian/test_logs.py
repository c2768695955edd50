"""The guardian's logs; a failure to write them never stops it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.instances.guarded import Guarded, wait_for
from tests.marks import as_root


def test_restart_log_is_rotated_at_its_size(guarded: Guarded) -> None:
    guarded.plan({"exit": 1})
    guardian = guarded.guard(MAX_RESTARTS=6, BACKOFF_LIMIT=0.01, GUARDIAN_LOG_BYTES=200)
    assert guarded.wait_exit(guardian) == 1
    logs = sorted(path.name for path in guarded.run_dir.glob("restart.log*"))
    assert logs == ["restart.log", "restart.log.1", "restart.log.2", "restart.log.3"]
    assert all((guarded.run_dir / name).stat().st_size < 1000 for name in logs)
    assert "[FATAL]" in "".join(guarded.text(name) for name in logs)


def test_the_console_log_is_capped_while_the_instance_writes(guarded: Guarded) -> None:
    guarded.plan({"chatty": 1000})
    guarded.guard(GUARDIAN_LOG_BYTES=2000)
    guarded.wait_healthy()
    names = ["console.log", "console.log.1", "console.log.2", "console.log.3"]
    guarded.wait("the last line", lambda: any("line 999 " in guarded.text(name) for name in names))
    assert sorted(path.name for path in guarded.run_dir.glob("console.log*")) == names
    assert all(len(guarded.text(name)) < 2100 for name in names)


def test_every_line_has_a_date_and_a_level(guarded: Guarded) -> None:
    guarded.plan({"exit": 1})
    guarded.wait_exit(guarded.guard(MAX_RESTARTS=1))
    for line in guarded.restart_log.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d \[(ALERT|SUCCESS|FATAL)\] |    \| ", line), line


def test_console_lines_are_printed_if_the_instance_exits_before_it_logs(guarded: Guarded) -> None:
    (guarded.run_dir / "web_app.log").mkdir()  # so that the stand-in cannot write to it
    guarded.plan({"exit": 78})
    assert guarded.wait_exit(guarded.guard()) == 78
    assert "    | line 0 of the console" in guarded.output


@as_root
@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_full_or_read_only_disk_does_not_stop_the_guardian(
    folder: Callable[..., Guarded], small_disk: Path, fault: str
) -> None:
    guarded = folder()
    guarded.guard()
    first = guarded.wait_healthy()
    if fault == "full":
        with (small_disk / "filler").open("wb", buffering=0) as filler, pytest.raises(OSError, match="space"):
            while True:
                filler.write(b"x" * 4096)
    else:
        # A bind mount, as the open lock prevents a remount of the disk itself.
        subprocess.run(["mount", "--bind", small_disk, small_disk], check=True)
        subprocess.run(["mount", "-o", "remount,ro,bind", small_disk], check=True)
    for restart in (1, 2):
        victim = first.pid if restart == 1 else _started(guarded)[-1]
        os.kill(victim, signal.SIGKILL)
        guarded.wait("another", lambda r=restart: len(_started(guarded)) > r)
        guarded.wait("health", lambda: f"after its start: process {_started(guarded)[-1]}," in guarded.output)
    if fault == "read-only":
        subprocess.run(["umount", "--lazy", small_disk], check=True)


def test_a_closed_output_does_not_stop_the_guardian(guarded: Guarded) -> None:
    reader, writer = os.pipe()
    guardian = subprocess.Popen(
        [Path(__file__).parents[2] / "guardian.sh"],
        env=guarded.environment,
        stdin=subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
        text=True,
    )
    guarded.guardians.append(guardian)
    os.close(writer)
    os.close(reader)
    guarded.wait_launches(1)
    guarded.wait_checks(2)
    os.kill(guarded.instance.pid, signal.SIGKILL)
    guarded.wait_launches(2)
    guarded.wait("success", lambda: "[SUCCESS]" in guarded.restart_log)
    assert guarded.command("stop").returncode == 0


def _started(guarded: Guarded) -> list[int]:
    return [int(pid) for pid in re.findall(r"started process (\d+)", guarded.output)]


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """A cgroup (v1 or v2) with 64 MiB."""
    name = f"guardian-test-{os.getpid()}"
    v1 = Path("/sys/fs/cgroup/memory")
    group, limit = (v1 / name, "memory.limit_in_bytes") if v1.exists() else (v1.parent / name, "memory.max")
    try:
        group.mkdir()
        (group / limit).write_text(str(64 << 20))
    except OSError as error:
        pytest.skip(f"no memory cgroup can be made here ({error.strerror})")
    yield group
    wait_for("the group to empty", lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@as_root
def test_the_oom_killer_is_named(folder: Callable[..., Guarded], memory_cgroup: Path) -> None:
    guarded = folder()
    guarded.plan({"hoard": 200}, {})
    enter = ("sh", "-c", f'echo $$ > {memory_cgroup}/cgroup.procs; exec "$@"', "sh")
    guardian = guarded.guard(prefix=enter)
    guarded.wait_healthy(2)
    assert "CAUSE=oom_killed SIGNAL=9 " in guarded.restart_log
    guardian.terminate()
    assert guarded.wait_exit(guardian) == 0

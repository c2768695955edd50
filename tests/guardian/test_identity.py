"""Identity: one guardian per folder, adoption of a running instance, and reused process ids."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.instances.guarded import Guarded, stat_of
from lab.instances.instance import ROOT
from tests.marks import as_root

BOOT_ID = Path("/proc/sys/kernel/random/boot_id").read_text().strip()


@pytest.fixture
def stranger() -> Iterator[subprocess.Popen[bytes]]:
    """A process that is not the guardian's."""
    process = subprocess.Popen(["sleep", "3600"])
    yield process
    process.kill()
    process.wait()


def test_a_second_guardian_names_the_first_and_exits(guarded: Guarded) -> None:
    first = guarded.guard()
    instance = guarded.wait_healthy()
    second = guarded.command()
    assert second.returncode == 3
    assert f"another guardian (process {first.pid})" in second.stderr
    assert guarded.command("start").returncode == 3
    guarded.wait_checks(2)
    assert guarded.launches == [instance]


def test_a_restarted_guardian_adopts_the_instance(guarded: Guarded) -> None:
    first = guarded.guard()
    instance = guarded.wait_healthy()
    first.kill()
    first.wait()
    assert instance.runs
    second = guarded.guard()
    guarded.wait("adoption", lambda: f"adopted process {instance.pid}" in guarded.output)
    guarded.wait_checks(4)
    assert guarded.launches == [instance]
    os.kill(instance.pid, signal.SIGKILL)
    guarded.wait_healthy(2)
    assert "CAUSE=other restart 1 of 5: " in guarded.restart_log
    second.terminate()
    assert guarded.wait_exit(second) == 0


def test_stop_ends_an_instance_whose_guardian_was_killed(guarded: Guarded) -> None:
    guardian = guarded.guard()
    instance = guarded.wait_healthy()
    guardian.kill()
    guardian.wait()
    assert guarded.command("status").returncode == 1
    assert guarded.command("stop").returncode == 0
    assert not instance.runs


def test_the_exit_code_of_an_adopted_instance_is_read_from_last_exit_json(guarded: Guarded) -> None:
    first = guarded.guard()
    guarded.wait_healthy()
    first.kill()
    first.wait()
    second = guarded.guard()
    guarded.wait("adoption", lambda: "adopted process" in guarded.output)
    guarded.order(exit=78)
    assert guarded.wait_exit(second) == 78
    assert "exit code 78" in guarded.restart_log


def test_last_exit_json_of_another_process_is_ignored(guarded: Guarded) -> None:
    first = guarded.guard()
    instance = guarded.wait_healthy()
    first.kill()
    first.wait()
    told = {"pid": instance.pid, "start_ticks": instance.start_ticks - 1, "code": 78, "reason": "long ago"}
    (guarded.run_dir / "last_exit.json").write_text(json.dumps(told))
    guarded.guard()
    guarded.wait("adoption", lambda: "adopted process" in guarded.output)
    os.kill(instance.pid, signal.SIGKILL)
    guarded.wait_healthy(2)
    assert "long ago" not in guarded.restart_log


@pytest.mark.parametrize(("older", "boot"), [(1, BOOT_ID), (0, BOOT_ID[::-1])], ids=["reused", "rebooted"])
def test_an_unrelated_process_in_the_pid_file_is_never_signalled(
    guarded: Guarded, stranger: subprocess.Popen[bytes], older: int, boot: str
) -> None:
    pid_file = f"{stranger.pid}\nstarttime={int(stat_of(stranger.pid)[19]) - older} boot={boot}\n"
    (guarded.run_dir / "web_app.pid").write_text(pid_file)
    guardian = guarded.guard()
    guarded.wait_healthy()
    assert f"web_app.pid names process {stranger.pid}, which is a different process now" in guarded.output
    assert guarded.text("web_app.pid").split()[0] == str(guarded.instance.pid)
    guardian.terminate()
    assert guarded.wait_exit(guardian) == 0
    (guarded.run_dir / "web_app.pid").write_text(pid_file)
    assert guarded.command("stop").returncode == 0
    assert stranger.poll() is None


@pytest.mark.parametrize("text", ["", "\n", "12", "-1\nstarttime=1 boot=x\n", "1 $(touch owned)\n"])
def test_a_damaged_pid_file_is_no_pid_file(guarded: Guarded, text: str) -> None:
    (guarded.run_dir / "web_app.pid").write_text(text)
    guarded.guard()
    guarded.wait_healthy()
    assert guarded.command("stop").returncode == 0


PID_REUSE = """
import os, pathlib, subprocess, sys, time
run = pathlib.Path(os.environ["OFA_RUN_DIR"])
first = subprocess.Popen(["sleep", "3600"])
ticks = pathlib.Path(f"/proc/{first.pid}/stat").read_text().rpartition(")")[2].split()[19]
boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
(run / "web_app.pid").write_text(f"{first.pid}\\nstarttime={ticks} boot={boot}\\n")
first.kill(); first.wait()
time.sleep(0.05)  # start times have a resolution of 10 ms
pathlib.Path("/proc/sys/kernel/ns_last_pid").write_text(str(first.pid - 1))
again = subprocess.Popen(["sleep", "3600"])
assert again.pid == first.pid, "the number was not used again"
guardian = subprocess.Popen([sys.argv[1]])
while not (run / "launches").exists():
    assert guardian.poll() is None
    time.sleep(0.05)
guardian.terminate()
assert guardian.wait() == 0
stop = subprocess.run([sys.argv[1], "stop"])
print("unharmed" if again.poll() is None else "signalled")
"""


@as_root
def test_a_reused_pid_is_never_signalled(
    in_pid_namespace: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = in_pid_namespace(sys.executable, "-c", PID_REUSE, ROOT / "guardian.sh")
    assert done.stdout.splitlines()[-1] == "unharmed", done.stdout + done.stderr
    assert "which is a different process now" in done.stdout


def test_two_instances_run_side_by_side(folder: Callable[..., Guarded]) -> None:
    one, other = folder("one"), folder("other")
    one.guard()
    other_guardian = other.guard()
    first, untouched = one.wait_healthy(), other.wait_healthy()
    os.kill(first.pid, signal.SIGKILL)
    one.wait_healthy(2)
    assert one.command("stop").returncode == 0
    other.wait_checks(2)
    assert other.launches == [untouched]
    assert untouched.runs
    assert other_guardian.poll() is None
    assert other.restart_log == ""

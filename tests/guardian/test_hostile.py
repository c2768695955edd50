"""Commands, other users and file systems that must not harm the guardian."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lab.instances.guarded import Guarded
from lab.instances.instance import ROOT
from tests.marks import as_root

#: Behaves like an NFS client: an exclusive lock requires write access, or there are no locks.
FLOCK = """
#define _GNU_SOURCE
#include <sys/file.h>
#include <fcntl.h>
#include <errno.h>
#include <dlfcn.h>
int flock(int fd, int op) {
  int (*real)(int, int) = dlsym(RTLD_NEXT, "flock");
  if (NONE) { errno = ENOLCK; return -1; }
  int reads = (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY;
  if ((op & ~LOCK_NB) == LOCK_EX && reads) { errno = EBADF; return -1; }
  return real(fd, op);
}
"""


# ---- concurrent commands ---------------------------------------------------------------------------------


def test_a_later_restart_request_does_not_cancel_a_stop(guarded: Guarded) -> None:
    guarded.plan({"deaf": True})
    guardian = guarded.guard(STOP_TIMEOUT=2)
    guarded.wait_healthy()
    guardian.send_signal(signal.SIGUSR1)  # takes two seconds, as the instance ignores TERM
    guarded.wait("the restart to begin", lambda: "restarting process" in guarded.restart_log)
    guardian.send_signal(signal.SIGTERM)
    time.sleep(0.5)  # bash runs the traps of pending signals in the order of their numbers
    guardian.send_signal(signal.SIGUSR1)
    assert guarded.wait_exit(guardian) == 0
    assert not guarded.instance.runs
    assert "FATAL" not in guarded.restart_log


def test_concurrent_commands_neither_start_two_instances_nor_kill_each_other(guarded: Guarded) -> None:
    choose = random.Random(7)
    for _ in range(2):
        words = [choose.choice(["start", "stop", "restart"]) for _ in range(8)]
        commands = [
            subprocess.Popen(
                [ROOT / "guardian.sh", word],
                env=guarded.environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for word in words
        ]
        for word, command in zip(words, commands, strict=True):
            told = command.communicate(timeout=240)[1]
            assert command.returncode in (0, 3), f"{word} → {command.returncode}: {told}"
        assert sum(launch.runs for launch in guarded.launches) <= 1
    assert guarded.command("stop").returncode == 0
    assert not any(launch.runs for launch in guarded.launches)
    assert "FATAL" not in guarded.restart_log + guarded.text("guardian.log")


# ---- the lock --------------------------------------------------------------------------------------------


@as_root
def test_another_user_can_neither_hold_the_lock_nor_impersonate_the_guardian(guarded: Guarded) -> None:
    for folder in (guarded.run_dir, *guarded.run_dir.parents):
        if os.stat(folder).st_uid == os.getuid() and folder != Path("/"):
            folder.chmod(0o755)
    lock = guarded.run_dir / "guardian.lock"
    assert guarded.command("start").returncode == 0
    try:
        guarded.wait_launches(1)
        assert lock.stat().st_mode & 0o777 == 0o600
        nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        squat = f"exec 9<{guarded.run_dir}; exec -a guardian.sh sleep 60"
        squatter = subprocess.Popen([*nobody, "bash", "-c", squat])
        try:
            held = subprocess.run(
                [*nobody, "flock", "-n", lock, "true"], capture_output=True, check=False, timeout=60
            )
            assert held.returncode != 0
            assert guarded.command("stop").returncode == 0
            assert squatter.poll() is None
        finally:
            squatter.kill()
            squatter.wait()
    finally:
        guarded.command("stop")
    assert not guarded.instance.runs


@pytest.fixture
def flock_that(tmp_path: Path) -> Callable[[str], str]:
    """Build a replacement of flock for LD_PRELOAD."""

    def build(none: str) -> str:
        source = tmp_path / "flock.c"
        source.write_text(FLOCK.replace("NONE", none))
        library = tmp_path / "flock.so"
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=120)
        return str(library)

    return build


def test_a_lock_works_on_a_file_system_that_requires_write_access(
    guarded: Guarded, flock_that: Callable[[str], str]
) -> None:
    guarded.guard(LD_PRELOAD=flock_that("0"))
    guarded.wait_healthy()


def test_a_file_system_without_locks_is_not_mistaken_for_another_guardian(
    guarded: Guarded, flock_that: Callable[[str], str]
) -> None:
    assert guarded.wait_exit(guarded.guard(LD_PRELOAD=flock_that("1"))) == 78
    assert "another guardian" not in guarded.output
    assert guarded.launches == []


# ---- files of the run folder -----------------------------------------------------------------------------


def test_a_fifo_in_place_of_a_file_does_not_block(guarded: Guarded) -> None:
    for name in ("web_app.pid", "restart_counts", "last_exit.json", "heartbeat"):
        os.mkfifo(guarded.run_dir / name)
    assert guarded.command("status").returncode == 3
    assert guarded.command("stop").returncode == 0


PID_1 = """
sleep 300 & bystander=$!
ticks=$(awk '{print $22}' /proc/1/stat)
boot=$(cat /proc/sys/kernel/random/boot_id)
printf '1\\nstarttime=%s boot=%s\\n' "$ticks" "$boot" > "$OFA_RUN_DIR/web_app.pid"
trap '' TERM
STOP_TIMEOUT=0.5 KILL_TIMEOUT=0.5 "$1" stop
kill -0 "$bystander" && echo unharmed
"""


@as_root
def test_a_pid_file_that_names_process_1_kills_no_process(
    in_pid_namespace: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    done = in_pid_namespace("bash", "-c", PID_1, "x", ROOT / "guardian.sh")
    assert done.stdout.splitlines()[-1] == "unharmed", done.stdout + done.stderr


@pytest.mark.parametrize("name", ["a b", "new\nline", "*", "-x", "$(touch OWNED)", "q'uo\"te", "ünï", "end "])
def test_a_folder_may_have_any_name(folder: Callable[..., Guarded], name: str) -> None:
    guarded = folder(name)
    guarded.guard()
    guarded.wait_healthy()
    assert guarded.command("status").returncode == 0
    assert guarded.command("stop").returncode == 0
    assert not (ROOT / "OWNED").exists()


@as_root
def test_a_folder_that_is_not_writable_is_reported_at_the_first_start(
    folder: Callable[..., Guarded], small_disk: Path
) -> None:
    guarded = folder()
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    try:
        assert guarded.wait_exit(guarded.guard()) == 78
        assert "OFA_RUN_DIR" in guarded.output
    finally:
        subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)


# ---- settings and interpreter ----------------------------------------------------------------------------


def test_a_number_with_a_leading_zero_is_decimal(guarded: Guarded) -> None:
    guarded.plan({"exit": 1})
    guardian = guarded.guard(MAX_RESTARTS="08", GUARDIAN_LOG_BYTES="0900000", BACKOFF_LIMIT=0.02)
    assert guarded.wait_exit(guardian) == 1
    assert len(guarded.launches) == 9


@pytest.mark.parametrize("url", ["file:///etc/passwd", "-o/tmp/x", "http://a.example b", "ftp://127.0.0.1/"])
def test_a_health_url_is_an_http_address(guarded: Guarded, url: str) -> None:
    guarded.environment["HEALTH_URL"] = url
    assert guarded.command().returncode == 2
    assert guarded.launches == []


def test_the_guardian_may_be_started_with_sh(guarded: Guarded) -> None:
    shown = subprocess.run(
        ["sh", ROOT / "guardian.sh", "help"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (shown.returncode, shown.stderr) == (0, "")
    assert shown.stdout.splitlines()[-1].strip().startswith("GUARDIAN_LOG_BYTES"), (
        "the help ends with the help"
    )


@pytest.mark.parametrize("venv", ["missing", "unusable"])
def test_without_a_usable_environment_the_message_names_make_setup(
    guarded: Guarded, tmp_path: Path, venv: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ROOT / "guardian", copy / "guardian")
    shutil.copy(ROOT / "guardian.sh", copy)
    if venv == "unusable":
        (copy / ".venv" / "bin").mkdir(parents=True)
        (copy / ".venv" / "bin" / "python").symlink_to("/nowhere/python")
    del guarded.environment["PYTHON"]
    assert guarded.wait_exit(guarded.guard(program=copy / "guardian.sh")) == 78
    assert "make setup" in guarded.output


# ---- its output ------------------------------------------------------------------------------------------


def test_a_kill_is_three_lines_of_restart_log_and_status_says_none_before(guarded: Guarded) -> None:
    guarded.guard(STABLE_PERIOD=0.2)
    instance = guarded.wait_healthy()
    assert "restarts: none" in guarded.command("status").stdout
    os.kill(instance.pid, signal.SIGKILL)
    guarded.wait("recovery", lambda: "CAUSE=recovered" in guarded.restart_log)
    causes = re.findall(r"CAUSE=(\w+)", guarded.restart_log)
    assert causes == ["signal", "healthy", "recovered"]
    assert len(guarded.restart_log.splitlines()) == 3


def test_logs_show_each_line_once(guarded: Guarded) -> None:
    assert guarded.command("start").returncode == 0
    try:
        guarded.wait("health", lambda: guarded.command("status").returncode == 0)
        os.kill(guarded.instance.pid, signal.SIGKILL)
        guarded.wait_launches(2)
        deadline = time.monotonic() + 60
        while (shown := guarded.command("logs").stdout).count("CAUSE=signal") == 0:
            assert time.monotonic() < deadline
    finally:
        guarded.command("stop")
    dated = [line for line in shown.splitlines() if re.match(r"\d{4}-", line)]
    assert len(dated) == len(set(dated))

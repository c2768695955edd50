"""How the guardian stops an instance, and which processes it never signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.instances.guarded import Guarded, stat_of, wait_for
from tests.marks import as_root

FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_guardian_that_is_stopped_stops_its_instance_in_order(guarded: Guarded, number: int) -> None:
    guardian = guarded.guard()
    instance = guarded.wait_healthy()
    guardian.send_signal(number)
    assert guarded.wait_exit(guardian) == 0
    assert not instance.runs
    assert json.loads(guarded.text("last_exit.json"))["code"] == 0, "it had time to stop in order"
    assert not (guarded.run_dir / "web_app.pid").exists()
    assert guarded.restart_log == ""


def test_an_instance_that_ignores_term_is_killed(guarded: Guarded) -> None:
    guarded.plan({"deaf": True})
    guardian = guarded.guard(STOP_TIMEOUT=0.5)
    instance = guarded.wait_healthy()
    guardian.terminate()
    assert guarded.wait_exit(guardian) == 0
    assert not instance.runs
    assert f"[ALERT] CAUSE=not_leaving process {instance.pid} " in guarded.restart_log


@pytest.mark.parametrize("how", ["variable", "flag"])
def test_a_draining_instance_is_given_that_much_more_time(guarded: Guarded, how: str) -> None:
    guarded.plan({"slow_to_leave": 1.5})
    flags = ("--", "--drain-delay=60") if how == "flag" else ()
    variables = {"OFA_DRAIN_DELAY": 60} if how == "variable" else {}
    guardian = guarded.guard(*flags, STOP_TIMEOUT=0.2, **variables)
    guarded.wait_healthy()
    guardian.terminate()
    assert guarded.wait_exit(guardian) == 0
    assert json.loads(guarded.text("last_exit.json"))["code"] == 0
    assert guarded.restart_log == "", "it was not killed"


def test_a_stopped_instance_is_continued_to_exit_in_order(guarded: Guarded) -> None:
    guardian = guarded.guard(CHECK_TIMEOUT=1)
    instance = guarded.wait_healthy()
    os.kill(instance.pid, signal.SIGSTOP)
    guardian.terminate()
    assert guarded.wait_exit(guardian) == 0
    assert not instance.runs
    assert json.loads(guarded.text("last_exit.json"))["code"] == 0


def test_remaining_processes_of_the_group_are_killed(guarded: Guarded) -> None:
    guarded.plan({"orphan": True}, {})
    guarded.guard()
    instance = guarded.wait_healthy()
    orphan = int(guarded.text("orphan"))
    os.kill(instance.pid, signal.SIGKILL)
    guarded.wait_launches(2)
    assert stat_of(orphan)[:1] in ([], ["Z"])
    assert "CAUSE=leftovers 1 process" in guarded.restart_log


def test_other_processes_in_the_guardians_own_group_are_not_signalled(guarded: Guarded) -> None:
    start = ("sh", "-c", 'sleep 3600 & echo $! > "$OFA_RUN_DIR/neighbour"; exec "$@"', "sh")
    guardian = guarded.guard(prefix=start)
    instance = guarded.wait_healthy()
    neighbour = int(guarded.text("neighbour"))
    os.kill(instance.pid, signal.SIGKILL)
    guarded.wait_healthy(2)
    guardian.terminate()
    assert guarded.wait_exit(guardian) == 0
    assert stat_of(neighbour)[0] == "S"


@pytest.fixture
def hold_port() -> Iterator[Callable[[int], subprocess.Popen[bytes]]]:
    """Start another process that listens on a port."""
    holders = []

    def hold(port: int) -> subprocess.Popen[bytes]:
        listen = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); time.sleep(3600)"
        holders.append(subprocess.Popen([sys.executable, "-SEc", listen]))
        wait_for("the holder", lambda: _answers(port))
        return holders[-1]

    yield hold
    for holder in holders:
        holder.kill()
        holder.wait()


@pytest.mark.parametrize("which", ["page", "health"])
def test_a_taken_port_at_the_first_start_ends_the_guardian_and_names_the_holder(
    guarded: Guarded, hold_port: Callable[[int], subprocess.Popen[bytes]], which: str
) -> None:
    port = guarded.port if which == "page" else guarded.health_port
    holder = hold_port(port)
    assert guarded.wait_exit(guarded.guard()) == 69
    assert (
        f"[FATAL] CAUSE=port_taken HOLDER=other port {port} is already in use by process {holder.pid} ("
        in (guarded.restart_log)
    )
    assert sys.executable in guarded.restart_log
    assert guarded.launches == []
    assert holder.poll() is None


def test_a_taken_port_at_a_restart_is_awaited_and_its_holder_left_running(
    guarded: Guarded, hold_port: Callable[[int], subprocess.Popen[bytes]]
) -> None:
    guarded.guard(MAX_RESTARTS=100, BACKOFF_FIRST=1, BACKOFF_LIMIT=1, STABLE_PERIOD=3600)
    first = guarded.wait_healthy()
    os.kill(first.pid, signal.SIGKILL)
    holder = hold_port(guarded.port)  # the stand-in never listens on it
    guarded.wait("a name", lambda: f"is already in use by process {holder.pid} (" in guarded.restart_log)
    assert "CAUSE=port_taken HOLDER=other restart " in guarded.restart_log
    assert holder.poll() is None
    holder.kill()
    guarded.wait_healthy(2)


@pytest.mark.parametrize("launches", [1, 2])
def test_a_port_taken_during_the_start_is_no_wrong_configuration(guarded: Guarded, launches: int) -> None:
    guarded.plan(*([{}] if launches == 2 else []), {"exit": 69}, {})
    guardian = guarded.guard()
    if launches == 1:
        assert guarded.wait_exit(guardian) == 69
        assert "[FATAL] CAUSE=port_taken " in guarded.restart_log
        return
    os.kill(guarded.wait_healthy().pid, signal.SIGKILL)
    guarded.wait_healthy(3)
    assert "[ALERT] CAUSE=port_taken restart " in guarded.restart_log


def test_a_listener_on_another_address_is_no_conflict(guarded: Guarded) -> None:
    with socket.create_server(("127.0.0.2", guarded.health_port)):
        guarded.guard()
        guarded.wait_healthy()
    assert guarded.restart_log == ""


@pytest.mark.long
def test_it_gives_up_on_a_port_that_stays_taken(
    guarded: Guarded, hold_port: Callable[[int], subprocess.Popen[bytes]]
) -> None:
    guardian = guarded.guard(MAX_RESTARTS=3, BACKOFF_FIRST=1, BACKOFF_LIMIT=1)
    os.kill(guarded.wait_healthy().pid, signal.SIGKILL)
    holder = hold_port(guarded.port)
    assert guarded.wait_exit(guardian) == 1
    assert f"port {guarded.port} is already in use by process {holder.pid} (" in guarded.restart_log
    assert "[FATAL] CAUSE=gave_up" in guarded.restart_log


@pytest.fixture
def freezer() -> Iterator[Path]:
    """A cgroup that can freeze its processes: then they are in state D and KILL does not end them."""
    group = FREEZER / f"guardian-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup v1 freezer here ({error.strerror})")
    yield group
    (group / "freezer.state").write_text("THAWED")
    wait_for("the frozen to go", lambda: not (group / "cgroup.procs").read_text())
    group.rmdir()


@as_root
def test_an_instance_that_cannot_be_killed_is_reported_and_no_second_one_started(
    guarded: Guarded, freezer: Path
) -> None:
    guarded.guard(CHECK_TIMEOUT=0.5, KILL_TIMEOUT=0.5)
    instance = guarded.wait_healthy()
    (freezer / "cgroup.procs").write_text(str(instance.pid))
    (freezer / "freezer.state").write_text("FROZEN")
    guarded.wait("a report", lambda: "CAUSE=undead " in guarded.restart_log)
    assert len(guarded.launches) == 1
    (freezer / "freezer.state").write_text("THAWED")
    guarded.wait_healthy(2)
    assert not instance.runs


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0

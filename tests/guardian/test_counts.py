"""restart_counts: the restarts by cause, which /metrics of the instance reads."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable

from lab.instances.guarded import Guarded
from lab.instances.instance import ROOT
from service.contract.causes import ExitCode, GuardianEvent, RestartCause
from service.telemetry.gauges import read_restarts


def counts(guarded: Guarded) -> dict[str, int]:
    return read_restarts(guarded.run_dir / "restart_counts")


def test_exits_are_counted_by_exit_code(guarded: Guarded) -> None:
    codes = (1, 0, 70, 71, 75, 9)
    guarded.plan(*({"exit": code} for code in codes), {})
    guarded.guard(MAX_RESTARTS=len(codes), BACKOFF_LIMIT=0.02)
    guarded.wait_healthy(len(codes) + 1)
    assert counts(guarded) == dict.fromkeys(
        ("failed", "ended", "hung", "device_lost", "memory_limit", "other"), 1
    )


def test_causes_seen_by_the_guardian_are_counted_too(guarded: Guarded) -> None:
    guarded.plan({"simple": 503}, {})
    guarded.guard()
    os.kill(guarded.wait_healthy(2).pid, signal.SIGKILL)
    guarded.wait_healthy(3)
    guarded.command("restart")
    guarded.wait_healthy(4)
    assert counts(guarded) == {"unhealthy": 1, "signal": 1, "asked": 1}


def test_counts_continue_in_another_guardian_and_survive_a_damaged_file(guarded: Guarded) -> None:
    (guarded.run_dir / "restart_counts").write_text("signal 41\nnonsense\nhung 1; x 2\n")
    guarded.guard()
    os.kill(guarded.wait_healthy().pid, signal.SIGKILL)
    guarded.wait_healthy(2)
    assert counts(guarded) == {"signal": 42}


def test_a_healthy_instance_is_not_counted(guarded: Guarded) -> None:
    guarded.guard()
    guarded.wait_healthy()
    guarded.wait_checks()
    assert counts(guarded) == {}


def test_a_file_that_is_not_writable_does_not_prevent_a_restart(folder: Callable[..., Guarded]) -> None:
    guarded = folder()
    (guarded.run_dir / "restart_counts.new").mkdir()
    guarded.guard()
    os.kill(guarded.wait_healthy().pid, signal.SIGKILL)
    guarded.wait_healthy(2)
    assert counts(guarded) == {}


def test_bash_and_python_have_the_same_codes() -> None:
    script = """
        source guardian/causes.sh
        printf '%s\\n' "${RESTART_CAUSES[@]}" -- "${EVENTS[@]}" --
        for name in "${!EXIT_@}"; do printf '%s=%s\\n' "${name#EXIT_}" "${!name}"; done
    """
    told = subprocess.run(["bash", "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    causes, events, codes = (part.split() for part in told.split("--"))
    assert causes == [*RestartCause]
    assert events == [*GuardianEvent]
    assert sorted(codes) == sorted(f"{code.name}={code.value}" for code in ExitCode)

"""When the guardian restarts its instance, each beside the case in which it must not."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time

import pytest

from lab.instances.guarded import Guarded
from service.health.channel import bind


def test_a_killed_instance_is_restarted(guarded: Guarded) -> None:
    guarded.guard()
    first = guarded.wait_healthy()
    os.kill(first.pid, signal.SIGKILL)
    second = guarded.wait_healthy(2)
    assert re.search(r"^\S+ \S+ \[ALERT\] CAUSE=signal SIGNAL=9 restart 1 of 5: ", guarded.restart_log, re.M)
    assert "last answer" in guarded.restart_log
    assert "    | a line of web_app.log" in guarded.output
    recovered = re.compile(rf"\[SUCCESS\] CAUSE=healthy healthy .* after its start: process {second.pid}")
    guarded.wait("the recovery in restart.log", lambda: recovered.search(guarded.restart_log))
    assert guarded.text("web_app.pid").split()[0] == str(second.pid)


def test_a_healthy_instance_is_left_alone(guarded: Guarded) -> None:
    guarded.guard()
    guarded.wait_healthy()
    guarded.wait_checks()
    assert len(guarded.launches) == 1
    assert guarded.restart_log == ""


def test_an_instance_that_is_no_longer_live_is_restarted(guarded: Guarded) -> None:
    guarded.guard()
    first = guarded.wait_healthy()
    guarded.order(livez=503)
    guarded.wait_launches(2)
    assert not first.runs
    assert "CAUSE=hung restart 1 of 5: " in guarded.restart_log


def test_two_failed_liveness_checks_are_tolerated(guarded: Guarded) -> None:
    guarded.guard()
    guarded.wait_healthy()
    guarded.order(livez_fails=2)
    guarded.wait_checks(6)
    assert len(guarded.launches) == 1


def test_an_announced_exit_is_awaited_and_its_exit_code_decides(guarded: Guarded) -> None:
    guardian = guarded.guard(STOP_TIMEOUT=600)
    guarded.wait_healthy()
    guarded.order(livez=503, leaving=78)
    guarded.wait_checks(6)
    guarded.order(exit=78)
    assert guarded.wait_exit(guardian) == 78
    assert len(guarded.launches) == 1
    assert "exit code 78" in guarded.restart_log


def test_an_instance_that_announces_its_exit_and_stays_is_restarted(guarded: Guarded) -> None:
    guarded.guard(STOP_TIMEOUT=0.5)
    guarded.wait_healthy()
    guarded.order(livez=503, leaving=1)
    guarded.wait_launches(2)
    assert "CAUSE=other restart 1 of 5: " in guarded.restart_log


def test_an_announced_configuration_exit_that_does_not_come_halts_the_guardian(guarded: Guarded) -> None:
    guardian = guarded.guard(STOP_TIMEOUT=0.5)
    instance = guarded.wait_healthy()
    guarded.order(livez=503, leaving=78)
    assert guarded.wait_exit(guardian) == 78
    assert not instance.runs
    assert "[FATAL] CAUSE=halted" in guarded.restart_log


@pytest.mark.parametrize("stop", [True, False], ids=["stopped", "silent"])
def test_an_instance_that_does_not_answer_is_killed_and_restarted(guarded: Guarded, stop: bool) -> None:
    guarded.guard(CHECK_TIMEOUT=0.5)
    first = guarded.wait_healthy()
    if stop:
        os.kill(first.pid, signal.SIGSTOP)
    else:
        guarded.order(silent=True)
    guarded.wait_launches(2)
    assert not first.runs
    assert "CAUSE=hung " in guarded.restart_log
    assert ("state T" in guarded.restart_log) == stop


def test_an_instance_stopped_before_its_first_answer_is_no_slow_start(guarded: Guarded) -> None:
    guarded.plan({"idle_for": 3600}, {})
    guarded.guard(START_STALL=3600)
    guarded.wait_launches(1)
    (first,) = guarded.launches
    os.kill(first.pid, signal.SIGSTOP)
    guarded.wait_launches(2)
    assert not first.runs
    assert re.search(r"CAUSE=hung .*state T", guarded.restart_log)


def test_an_instance_that_stays_unhealthy_is_restarted(guarded: Guarded) -> None:
    guarded.guard()
    guarded.wait_healthy()
    guarded.order(simple=503)
    guarded.wait_launches(2)
    assert "CAUSE=unhealthy " in guarded.restart_log
    assert "model loaded, inference stale" in guarded.restart_log, "its last answer is logged"


@pytest.mark.parametrize(
    ("model", "path"),
    [("uninitialized", "/guardian"), ("loading", "/guardian"), ("uninitialized", "/health")],
)
def test_an_unhealthy_engine_elsewhere_is_no_reason_to_restart(
    guarded: Guarded, model: str, path: str
) -> None:
    """Neither at once nor, if it looks like a load without progress, later."""
    guarded.plan({"remote": True, "socketless": path == "/health"})
    guarded.guard(START_STALL=1 if path == "/guardian" else 300)  # without a socket the start takes 10 s
    guarded.wait_healthy()
    guarded.order(simple=503, model=model)
    guarded.wait_checks(12, path)
    assert len(guarded.launches) == 1
    guarded.order(simple=503, livez=503)  # its own failure is
    guarded.wait_launches(2)


def test_a_short_unhealthy_period_is_tolerated(guarded: Guarded) -> None:
    guarded.guard(UNHEALTHY_LIMIT=300)
    guarded.wait_healthy()
    guarded.order(simple=503)
    guarded.wait_checks()
    guarded.order()
    guarded.wait_checks()
    assert len(guarded.launches) == 1


def test_a_full_queue_is_no_reason_to_restart(guarded: Guarded) -> None:
    guarded.guard()
    guarded.wait_healthy()
    guarded.order(readyz=503)
    guarded.wait_checks(8)
    assert len(guarded.launches) == 1


def test_a_reload_is_no_reason_to_restart(guarded: Guarded) -> None:
    guarded.guard()
    guarded.wait_healthy()
    guarded.order(simple=503, model="loading")
    guarded.wait_checks(8)
    assert len(guarded.launches) == 1


def test_loading_with_progress_is_tolerated(guarded: Guarded) -> None:
    guarded.plan({"loading": True})
    guarded.guard(START_STALL=2)
    guarded.wait_launches(1)
    # A tenth of a second apart: twice as long as standing still may last.
    guarded.wait_checks(40)
    assert len(guarded.launches) == 1


def test_loading_without_progress_is_restarted(guarded: Guarded) -> None:
    guarded.plan({"loading": True, "standstill": True}, {})
    # Enough time for one answer on a busy machine; answering such rare checks is no visible progress.
    guarded.guard(START_STALL=5, CHECK_INTERVAL=3)
    guarded.wait_healthy(2)
    assert "CAUSE=start_stalled " in guarded.restart_log
    assert "loading: 0" in guarded.restart_log


def test_loading_beyond_its_limit_is_restarted_even_with_progress(guarded: Guarded) -> None:
    guarded.plan({"loading": True}, {})
    guarded.guard(START_TIMEOUT=1)
    guarded.wait_launches(2)  # its limit is as short, so on a slow machine it may not become healthy
    assert "CAUSE=start_timeout " in guarded.restart_log


def test_a_start_that_computes_before_it_listens_is_tolerated(guarded: Guarded) -> None:
    guarded.plan({"busy_for": 6})
    guarded.guard(START_STALL=2)
    guarded.wait_healthy()
    assert len(guarded.launches) == 1


def test_a_start_that_does_nothing_is_restarted(guarded: Guarded) -> None:
    guarded.plan({"idle_for": 3600}, {})
    guarded.guard(START_STALL=3)
    guarded.wait_healthy(2)
    assert "CAUSE=start_stalled " in guarded.restart_log


@pytest.mark.parametrize("code", [0, 1, 70, 71, 75])
def test_an_instance_that_exits_is_restarted(guarded: Guarded, code: int) -> None:
    guarded.plan({"exit": code}, {})
    guarded.guard()
    guarded.wait_healthy(2)
    assert f"exit code {code}" in guarded.restart_log
    assert ": ordered;" in guarded.restart_log, "the reason in last_exit.json is logged"
    at_once = code in (70, 71)
    assert ("next start in" not in guarded.output) == at_once


def test_a_wrong_configuration_halts_the_guardian(guarded: Guarded) -> None:
    guarded.plan({"exit": 78})
    guardian = guarded.guard()
    assert guarded.wait_exit(guardian) == 78
    assert len(guarded.launches) == 1
    assert re.search(r"\[FATAL\] CAUSE=halted .*exit code 78", guarded.restart_log)
    assert "    | a line of web_app.log" in guarded.output


def test_a_missing_interpreter_is_named(guarded: Guarded) -> None:
    guardian = guarded.guard(PYTHON="/nowhere/python")
    assert guarded.wait_exit(guardian) == 78
    assert "/nowhere/python" in guarded.output


def test_it_gives_up_after_max_restarts_consecutive_failures(guarded: Guarded) -> None:
    guarded.plan({"exit": 1})
    message = guarded.run_dir / "message"
    guardian = guarded.guard(MAX_RESTARTS=3, NOTIFY_COMMAND=f'echo "$GUARDIAN_MESSAGE" > {message}')
    assert guarded.wait_exit(guardian) == 1
    assert len(guarded.launches) == 4
    assert "[FATAL] CAUSE=gave_up " in guarded.restart_log
    assert "gave up after 3 " in message.read_text()


def test_restarts_are_counted_from_zero_after_a_recovery(guarded: Guarded) -> None:
    guarded.guard(MAX_RESTARTS=1, STABLE_PERIOD=0.2)
    for number in range(1, 4):
        instance = guarded.wait_healthy(number)
        # A recovery is logged once per restart; the first start needs none.
        guarded.wait("recovery", lambda n=number: guarded.restart_log.count("] CAUSE=recovered") >= n - 1)
        guarded.wait_checks(6)
        os.kill(instance.pid, signal.SIGKILL)
    guarded.wait_healthy(4)
    assert "FATAL" not in guarded.restart_log
    assert "next start in" not in guarded.output, "one that had been stable is started at once"


def test_the_pauses_between_failed_restarts_grow_with_jitter(guarded: Guarded) -> None:
    guarded.plan({"exit": 1})
    guardian = guarded.guard(MAX_RESTARTS=6, BACKOFF_FIRST=0.05, BACKOFF_LIMIT=0.4)
    assert guarded.wait_exit(guardian) == 1
    pauses = [int(pause) for pause in re.findall(r"next start in (\d+) ms", guarded.output)]
    assert len(pauses) == 6
    for pause, expected in zip(pauses, [50, 100, 200, 400, 400, 400], strict=True):
        assert int(0.75 * expected) <= pause <= 1.25 * expected


def test_a_pause_of_the_guardian_does_not_count_against_the_instance(guarded: Guarded) -> None:
    guardian = guarded.guard(UNHEALTHY_LIMIT=10, CHECK_TIMEOUT=1)
    guarded.wait_healthy()
    guarded.order(simple=503)
    guarded.wait_checks(1)
    os.kill(guardian.pid, signal.SIGSTOP)
    time.sleep(11)  # longer than the limit
    os.kill(guardian.pid, signal.SIGCONT)
    guarded.wait_checks(2)
    guarded.order()
    guarded.wait_checks(4)
    assert "the guardian was paused for" in guarded.output
    assert len(guarded.launches) == 1


# ---- the channel -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answers", "socketless"),
    [
        pytest.param("endless", False, id="socket-endless"),
        pytest.param("drip", False, id="socket-drip", marks=pytest.mark.long),
        pytest.param("endless", True, id="port-endless"),
        pytest.param("drip", True, id="port-drip", marks=pytest.mark.long),
    ],
)
def test_an_answer_that_never_ends_is_no_answer(guarded: Guarded, answers: str, socketless: bool) -> None:
    guarded.plan({"socketless": socketless}, {})
    guarded.guard(CHECK_TIMEOUT=1)
    first = guarded.wait_healthy()
    guarded.order(answers=answers)
    guarded.wait_launches(2)
    assert not first.runs
    assert "CAUSE=hung " in guarded.restart_log


def test_a_flooded_port_causes_no_restart_while_the_socket_answers(guarded: Guarded) -> None:
    guarded.guard()
    guarded.wait_healthy()
    with contextlib.ExitStack() as held:
        for _ in range(40):
            held.enter_context(socket.create_connection(("127.0.0.1", guarded.health_port)))
        guarded.wait_checks()
    assert len(guarded.launches) == 1
    asked = guarded.text("requests").splitlines()
    assert set(asked) == {"/guardian"}, "the port is not requested at all"


@pytest.mark.parametrize("heartbeat", [True, False])
def test_without_a_socket_a_fresh_heartbeat_prevents_a_restart(guarded: Guarded, heartbeat: bool) -> None:
    guarded.plan({"socketless": True, "heartbeat": heartbeat}, {})
    guarded.guard(CHECK_TIMEOUT=0.5, CHECK_INTERVAL=1)
    guarded.wait_healthy()
    assert "/health/simple" in guarded.text("requests")
    guarded.order(silent=True, heartbeat=heartbeat)
    if heartbeat:
        guarded.wait_checks(5, "/livez")
        assert len(guarded.launches) == 1
        guarded.order(silent=True, heartbeat=False)  # the heartbeat grows old
    guarded.wait_launches(2)
    assert "CAUSE=hung " in guarded.restart_log


def test_without_a_listener_on_the_socket_the_port_is_used(guarded: Guarded) -> None:
    bind(guarded.run_dir / "health.sock").close()
    guarded.plan({"socketless": True})
    guarded.guard()
    guarded.wait_healthy()
    assert "/health/simple" in guarded.text("requests")

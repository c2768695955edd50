"""guardian.sh fleet: several instances, each with its guardian, with a stand-in for the service."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from lab.instances.fleet import Fleet, table
from lab.instances.guarded import PATIENCE


@pytest.fixture
def fleet(tmp_path: Path, interpreter: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", 3, PYTHON=interpreter, OFA_DRAIN_DELAY=0.01) as fleet:
        yield fleet


@pytest.fixture
def two(fleet: Fleet) -> Fleet:
    """Two running instances."""
    assert fleet.command("start", "--instances", "2", "--", "--model", "demo")[0] == 0
    return fleet


def test_each_instance_has_its_own_ports_number_folder_and_share_of_the_cores(two: Fleet) -> None:
    cores = psutil.cpu_count(logical=False) or 1
    rows = two.rows()
    assert [row["INSTANCE"] for row in rows] == ["1", "2"]
    for number, row in enumerate(rows, 1):
        told = two.environ(number)
        assert told["OFA_RUN_DIR"] == str(two.folder / str(number))
        assert told["OFA_INSTANCE"] == str(number)
        assert row["PORTS"] == f"{told['OFA_PORT']},{told['OFA_HEALTH_PORT']}"
        assert row["PORTS"] == f"{two.port + number - 1},{two.health_port + number - 1}"
        assert int(told["OFA_THREADS"]) == max(1, cores // 2)
        assert told["OFA_DRAIN_DELAY"] == "0.01"
        assert two.launches(number)[0].arguments[1:] == ["--model", "demo"]
        assert row["PID"] == str(two.launches(number)[0].pid)
    assert len({row["GUARDIAN"] for row in rows}) == 2


def test_the_table_and_its_exit_status(fleet: Fleet) -> None:
    # No guardian restarts an instance that is told to be unhealthy.
    assert fleet.command("start", "--instances", "2", CHECK_INTERVAL=600)[0] == 0
    assert fleet.command("status")[0] == 0
    (one, other) = fleet.rows()
    assert one == other | {name: one[name] for name in ("INSTANCE", "PID", "GUARDIAN", "PORTS")}
    columns = ("PHASE", "READY", "HEALTHY", "EVIDENCE", "QUEUE", "RESTARTS", "DEVICE")
    assert tuple(one[name] for name in columns) == ("loaded", "yes", "yes", "1s", "0", "0", "cpu")
    fleet.order(2, readyz=503)
    assert fleet.command("status")[0] == 0, "not ready is not unhealthy"
    assert [row["READY"] for row in fleet.rows()] == ["yes", "no"]
    fleet.order(2, says="a text of\tmany words", model="$(touch owned) x", livez=503)
    assert fleet.command("status")[0] == 1
    assert [row["PHASE"] for row in fleet.rows()] == ["loaded", "not-live"]
    assert fleet.command("stop")[0] == 0
    assert fleet.command("status")[0] == 3
    assert [(row["PHASE"], row["PID"]) for row in fleet.rows()] == [("down", "-")] * 2


def test_status_of_no_fleet(fleet: Fleet) -> None:
    assert fleet.command("status")[0] == 3
    assert fleet.command("stop")[0] == 0
    assert fleet.rows() == []


def test_start_starts_only_what_does_not_run(two: Fleet) -> None:
    assert two.command("start")[0] == 0
    os.kill(int(two.rows()[1]["GUARDIAN"]), signal.SIGTERM)
    two.wait("its end", lambda: two.rows()[1]["PHASE"] == "down")
    assert two.command("start")[0] == 0
    assert [len(two.launches(number)) for number in (1, 2)] == [1, 2]
    assert two.launches(2)[1].arguments[1:] == ["--model", "demo"], "the arguments of the first start"


def test_a_start_with_other_arguments_or_ports_is_refused_while_instances_run(two: Fleet) -> None:
    assert two.command("start", "--", "--model", "other")[0] == 2
    assert two.command("start", "--instances", "3", OFA_PORT=two.port + 1)[0] == 2
    assert two.command("restart", OFA_HEALTH_PORT=two.health_port + 1)[0] == 2
    assert [len(two.launches(number)) for number in (1, 2, 3)] == [1, 1, 0]
    assert two.command("stop")[0] == 0
    assert two.command("start", "--", "--model", "other")[0] == 0
    assert [two.launches(number)[-1].arguments[1:] for number in (1, 2)] == [["--model", "other"]] * 2


def test_a_larger_number_adds_instances_and_a_smaller_one_stops_the_surplus(two: Fleet) -> None:
    assert two.command("start", "--instances", "3")[0] == 0
    assert [len(two.launches(number)) for number in (1, 2, 3)] == [1, 1, 1]
    assert two.command("start", "--instances", "1")[0] == 0
    assert [two.launches(number)[-1].runs for number in (1, 2, 3)] == [True, False, False]
    assert len(two.rows()) == 1


def test_a_killed_instance_is_restarted_by_its_guardian_alone(two: Fleet) -> None:
    before = two.rows()
    os.kill(int(before[0]["PID"]), signal.SIGKILL)
    two.wait("the restart", lambda: len(two.launches(1)) == 2 and two.rows()[0]["HEALTHY"] == "yes")
    after = two.rows()
    assert after[0]["RESTARTS"] == "1"
    assert after[0]["GUARDIAN"] == before[0]["GUARDIAN"]
    assert after[1] == before[1]


def test_hung_instances_do_not_hang_status(two: Fleet) -> None:
    os.kill(int(two.rows()[0]["GUARDIAN"]), signal.SIGSTOP)  # or it would restart the instance
    os.kill(two.launches(1)[0].pid, signal.SIGSTOP)
    two.order(2, silent=True)
    code, shown = two.command("status", CHECK_TIMEOUT=0.5)
    assert code == 1
    assert [(row["PHASE"], row["READY"]) for row in table(shown)] == [("suspended", "no"), ("silent", "no")]
    assert two.command("stop")[0] == 0
    assert not any(two.launches(number)[-1].runs for number in (1, 2))


def test_a_rolling_restart_waits_for_readiness_and_holds_the_lock(two: Fleet) -> None:
    two.plan(1, {}, {"readyz": 503})
    restart = two.begin("restart")
    two.wait("the first restart", lambda: len(two.launches(1)) == 2 and two.rows()[0]["HEALTHY"] == "yes")
    for command in (("start",), ("stop",), ("restart",)):
        assert two.command(*command)[0] == 3
    assert two.command("status")[0] == 0
    assert len(two.launches(2)) == 1, "healthy is not ready"
    two.order(1, readyz=200)
    restart.communicate(timeout=PATIENCE)
    assert restart.returncode == 0
    assert [len(two.launches(number)) for number in (1, 2)] == [2, 2]
    assert [row["RESTARTS"] for row in two.rows()] == ["0", "0"], "a restart on request is no failure"


def test_a_rolling_restart_ends_when_an_instance_does_not_come_back(two: Fleet) -> None:
    two.plan(1, {}, {"exit": 78})
    assert two.command("restart")[0] == 1
    assert [row["PHASE"] for row in two.rows()] == ["down", "loaded"]
    assert len(two.launches(2)) == 1
    two.plan(1, {})
    assert two.command("restart")[0] == 0, "the one that is down comes first"
    assert two.launches(2)[1].start_ticks > two.launches(1)[-1].start_ticks


def test_no_instance_is_taken_down_while_another_one_is_not_ready(two: Fleet) -> None:
    two.order(2, readyz=503)
    assert two.command("restart", START_TIMEOUT=0.5)[0] == 1
    assert [len(two.launches(number)) for number in (1, 2)] == [1, 1]


@pytest.mark.long  # ten seconds and more
def test_a_restart_with_options_applies_them_and_the_environment_to_all(two: Fleet) -> None:
    guardians = [row["GUARDIAN"] for row in two.rows()]
    code, _ = two.command("restart", "--instances", "3", "--", "--model", "other", OFA_QUEUE_SIZE=7)
    assert code == 0
    rows = two.rows()
    assert len(rows) == 3
    assert not set(guardians) & {row["GUARDIAN"] for row in rows}
    for number in (1, 2, 3):
        assert two.launches(number)[-1].arguments[1:] == ["--model", "other"]
        assert two.environ(number)["OFA_QUEUE_SIZE"] == "7"
    assert two.launches(3)[0].start_ticks < two.launches(1)[1].start_ticks < two.launches(2)[1].start_ticks
    assert two.command("restart", "--instances", "1")[0] == 0
    assert [two.launches(number)[-1].runs for number in (1, 2, 3)] == [True, False, False]


@pytest.mark.long  # ten seconds and more
def test_a_start_fails_when_an_instance_does_not_become_ready(fleet: Fleet) -> None:
    fleet.plan(1, {"loading": True})
    fleet.plan(2, {"exit": 78})
    assert fleet.command("start", "--instances", "3", START_STALL=1, START_TIMEOUT=2)[0] == 1
    fleet.wait("the third", lambda: [row["READY"] for row in fleet.rows()] == ["no", "no", "yes"])
    assert len(fleet.launches(2)) == 1
    fleet.order(1, loading=False)
    fleet.plan(2, {})
    assert fleet.command("start")[0] == 0


def test_one_instance_per_gpu(fleet: Fleet, tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    tool = tools / "nvidia-smi"
    tool.write_text('#!/bin/sh\necho "GPU 0: A (UUID: x)"\necho "  MIG 1g: y"\necho "GPU 1: A (UUID: z)"\n')
    tool.chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    assert fleet.command("start", "--per-gpu", "--instances", "3", PATH=path)[0] == 78
    assert fleet.command("start", "--per-gpu", "--", "--device", "cpu", PATH=path)[0] == 2
    assert fleet.command("start", "--per-gpu", PATH=path)[0] == 0
    assert [fleet.environ(number)["OFA_DEVICE"] for number in (1, 2)] == ["cuda:0", "cuda:1"]
    assert "OFA_THREADS" not in fleet.environ(1)
    assert len(fleet.rows()) == 2
    assert fleet.command("start", "--per-gpu", CUDA_VISIBLE_DEVICES="-1")[0] == 78


@pytest.mark.parametrize(
    ("arguments", "settings"),
    [
        ((), {}),
        (("bogus",), {}),
        (("start",), {}),
        (("start", "--instances"), {}),
        (("start", "--instances="), {}),
        (("start", "--instances", "0"), {}),
        (("start", "--instances", "256"), {}),
        (("start", "--instances", "2; touch owned"), {}),
        (("start", "--instances", "2", "--model", "demo"), {}),
        (("status", "--instances", "2"), {}),
        (("stop", "--per-gpu"), {}),
        (("start", "--instances", "2", "--", "--port", "1"), {}),
        (("start", "--instances", "2", "--", "--health-port=1"), {}),
        (("start", "--instances", "2", "--", "--run-dir=x"), {}),
        (("start", "--instances", "2", "--", "--instance", "3"), {}),
        (("start", "--instances", "2"), {"HEALTH_URL": "http://127.0.0.1:1"}),
        (("start", "--instances", "2"), {"OFA_PORT": "65535"}),
        (("start", "--instances", "2"), {"OFA_PORT": "8000", "OFA_HEALTH_PORT": "8001"}),
        (("start", "--instances", "2"), {"OFA_PORT": "0"}),
        (("start", "--instances", "2"), {"OFA_PORT": "tcp://10.0.0.1:7860"}),
    ],
)
def test_wrong_usage_starts_nothing(
    fleet: Fleet, arguments: tuple[str, ...], settings: dict[str, str]
) -> None:
    code, message = fleet.command(*arguments, **settings)
    assert code == 2
    assert message
    assert fleet.launches(1) == []

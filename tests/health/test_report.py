"""Every value of the health report, from constructed snapshots."""

from __future__ import annotations

from dataclasses import replace

import pytest

from service.contract.causes import BUSY, Refusal
from service.contract.status import Activity, Evidence, Failure, Phase, Progress, Snapshot
from service.health.report import Report, judge, level
from service.health.resources import Resources, Use

NOW = 1000.0
SERVING = Snapshot(
    phase=Phase.LOADED,
    model="demo",
    device="cpu",
    dtype="fp32",
    started_unix=1_795_000_000,
    ready_seconds=3.0,
    activity=Activity(capacity=2),
    evidence=Evidence(proven_at=NOW - 10, proven_by="user", probe_at=NOW - 30),
)
ROOMY = Resources(at=NOW, memory=Use(10, 100), memory_by="host", disk=Use(10, 100))


def report(snapshot: Snapshot = SERVING, resources: Resources = ROOMY) -> Report:
    return judge(snapshot, resources, now=NOW, unix=1_795_000_060.7, evidence_ttl=90)


def with_evidence(**changes: object) -> Snapshot:
    return replace(SERVING, evidence=replace(SERVING.evidence, **changes))  # type: ignore[arg-type]


def with_activity(**changes: object) -> Snapshot:
    return replace(SERVING, activity=replace(SERVING.activity, **changes))  # type: ignore[arg-type]


def test_a_proven_model_is_healthy_live_and_ready() -> None:
    told = report()
    assert (told.healthy, told.live.ok, told.ready.ok, told.startup.ok) == (True, True, True, True)
    answer = told.as_dict()
    assert answer["status"] == "healthy"
    assert answer["timestamp"] == 1_795_000_060
    assert answer["details"] == {
        "process": "healthy",
        "gpu": "disabled",
        "memory": "healthy",
        "disk": "healthy",
        "model": "loaded",
        "inference": "success",
    }


@pytest.mark.parametrize(
    ("evidence", "word"),
    [
        ({"proven_at": None}, "failed: not yet proven"),
        ({"proven_at": NOW - 90}, "success"),
        ({"proven_at": NOW - 90.1}, "stale"),
        ({"failure": Failure("timeout", NOW - 9)}, "timeout"),
        (
            {"failure": Failure("failed: The GPU's memory is full.", NOW - 9)},
            "failed: The GPU's memory is full.",
        ),
        ({"failure": Failure("timeout", NOW - 11)}, "success"),  # answered since that probe began
        ({"proven_at": None, "failure": Failure("timeout", NOW - 99)}, "timeout"),
        ({"unstable": 1}, "unstable"),
        ({"unstable": 1, "failure": Failure("timeout", NOW)}, "unstable"),
    ],
)
def test_inference_is_judged_by_evidence_and_nothing_else(evidence: dict[str, object], word: str) -> None:
    told = report(with_evidence(**evidence))
    assert told.details["inference"] == word
    assert told.healthy is (word == "success")
    assert told.ready.ok is (word == "success")
    assert told.live.ok  # no probe's result is worth killing for by itself


@pytest.mark.parametrize(
    ("phase", "word"),
    [(Phase.UNINITIALIZED, "uninitialized"), (Phase.LOADING, "loading"), (Phase.FAILED, "failed")],
)
def test_without_a_model_nothing_is_healthy_but_the_process_lives(phase: Phase, word: str) -> None:
    told = report(replace(SERVING, phase=phase, ready_seconds=None, evidence=Evidence()))
    assert told.details["model"] == word
    assert told.details["inference"] == "failed: not yet proven"
    assert (told.healthy, told.live.ok, told.ready.ok, told.startup.ok) == (False, True, False, False)


def test_starting_up_shows_progress_and_when_to_ask_again() -> None:
    progress = Progress("fetching pytorch_model.bin", 3_000_000, 33_000_000, 1, 3)
    told = report(replace(SERVING, phase=Phase.LOADING, ready_seconds=None, progress=progress))
    assert told.startup.reason == (
        "loading: fetching pytorch_model.bin, 3000000 of 33000000 bytes, attempt 1 of 3"
    )
    assert told.startup.retry_after is not None
    assert (told.ready.reason, told.ready.retry_after) == (Refusal.LOADING, 5)


@pytest.mark.parametrize("refusal", sorted(BUSY))
def test_refusing_requests_is_unready_with_a_time_to_wait_and_neither_dead_nor_unhealthy(
    refusal: Refusal,
) -> None:
    told = report(with_activity(depth=2, running=True, refusal=refusal, retry_after=6.2))
    assert (told.ready.ok, told.ready.reason, told.ready.retry_after) == (False, refusal, 7)
    assert told.live.ok
    assert told.healthy


def test_an_orphaned_computation_is_unready_but_alive_until_it_counts_as_hung() -> None:
    stuck = with_activity(running=True, not_cancelling=True, refusal=Refusal.STUCK, retry_after=30.0)
    told = report(stuck)
    assert (told.ready.ok, told.ready.retry_after, told.live.ok) == (False, 30, True)
    told = report(with_activity(running=True, not_cancelling=True, hung=True, running_for=81.0))
    assert (told.ready.ok, told.live.ok) == (False, False)
    assert told.live.reason == "hung: a computation is stuck for 81 s"


def test_a_dead_engine_or_a_fatal_error_is_not_live() -> None:
    assert not report(with_activity(alive=False)).live.ok
    assert not report(replace(SERVING, phase=Phase.FAILED, fatal=71)).live.ok


def test_a_stopping_process_is_live_and_unready_and_keeps_saying_what_it_has() -> None:
    told = report(replace(SERVING, phase=Phase.STOPPING, activity=replace(SERVING.activity, alive=False)))
    assert (told.live.ok, told.ready.ok, told.startup.ok, told.healthy) == (True, False, True, False)
    assert told.details["model"] == "loaded"


@pytest.mark.parametrize(
    ("used", "word"), [(80, "healthy"), (81, "warning"), (90, "warning"), (91, "critical")]
)
def test_memory_and_disk_have_their_limits(used: int, word: str) -> None:
    told = report(resources=replace(ROOMY, memory=Use(used, 100), disk=Use(used, 100)))
    assert (told.details["memory"], told.details["disk"]) == (word, word)
    assert told.healthy  # a warning is for people; restarting frees no disk


@pytest.mark.parametrize(
    ("use", "word"),
    [
        (None, "disabled"),
        (Use(85, 100), "healthy"),
        (Use(86, 100), "warning"),
        (Use(95, 100), "warning"),
        (Use(96, 100), "critical"),
    ],
)
def test_the_gpu_has_its_own_limits(use: Use | None, word: str) -> None:
    assert report(resources=replace(ROOMY, gpu=use)).details["gpu"] == word


@pytest.mark.parametrize(
    ("activity", "word"),
    [
        ({}, "idle"),
        ({"running": True}, "busy"),
        ({"running": True, "depth": 1}, "busy"),
        ({"running": True, "depth": 2, "refusal": Refusal.QUEUE_FULL}, "full"),
        ({"running": True, "depth": 1, "refusal": Refusal.TOO_LATE}, "full"),
        ({"running": True, "depth": 2, "refusal": Refusal.STUCK, "not_cancelling": True}, "wedged"),
        ({"running": True, "hung": True}, "wedged"),
        ({"alive": False}, "wedged"),
    ],
)
def test_busy_and_wedged_are_two_things(activity: dict[str, object], word: str) -> None:
    told = report(with_activity(**activity))
    assert told.as_dict()["queue"]["state"] == word  # type: ignore[index]
    assert told.healthy == told.live.ok  # the evidence is as it was


def test_a_process_on_its_way_out_is_not_wedged() -> None:
    told = report(replace(with_activity(alive=False), phase=Phase.STOPPING))
    assert told.as_dict()["queue"]["state"] == "stopping"  # type: ignore[index]


def test_on_the_cpu_for_want_of_gpu_memory_it_stays_ready_and_says_so() -> None:
    told = report(replace(SERVING, degraded="computing on the CPU"))
    assert (told.healthy, told.ready.ok) == (True, True)
    assert told.as_dict()["model"]["degraded"] == "computing on the CPU"  # type: ignore[index]


def test_nothing_to_use_up_is_not_full() -> None:
    assert level(Use(0, 0), warning=0.8, critical=0.9) == "healthy"


def test_the_extra_figures_hold_ages_and_counts() -> None:
    told = report(with_activity(depth=1, counts={"accepted": 3, "timeout": 1}, service_seconds=3.21))
    more = told.as_dict()
    assert more["log_lines_lost"] == 0
    assert more["uptime_seconds"] == 60
    assert more["evidence"]["age_seconds"] == 10.0  # type: ignore[index]
    assert more["evidence"]["probe_age_seconds"] == 30.0  # type: ignore[index]
    assert more["queue"]["totals"] == {"accepted": 3, "timeout": 1}  # type: ignore[index]

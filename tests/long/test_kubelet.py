"""The faults of docs/fault-measurements.md in the pod of deploy/kubernetes, under a simulated kubelet.

Periods and thresholds are the manifest's own. The container is restarted exactly where the guardian restarts
its instance.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from lab.faults.catalogue import FAULTS
from lab.faults.fault import Fault
from lab.faults.scenes import Missing, with_settings
from lab.faults.users import Users, red_circle
from lab.instances.client import judge
from lab.instances.guarded import wait_for
from lab.kubernetes.container import environment
from lab.kubernetes.kubelet import Event
from service.contract import times
from tests.marks import as_root
from tests.pods import Pod, pod_spec

pytestmark = [pytest.mark.long, as_root]

NAMED = {fault.name: fault for fault in FAULTS}
LIVENESS = pod_spec()["containers"][0]["livenessProbe"]
#: The kubelet has decided about a fault after this time, in seconds, and some for a busy machine.
DECIDED = LIVENESS["failureThreshold"] * LIVENESS["periodSeconds"] + LIVENESS["timeoutSeconds"] + 7


class Expected(NamedTuple):
    """Exit codes of the container until it is ready again, whether the kubelet ends it, and whether it stops
    being an endpoint for a while; None: by the machine's speed."""

    codes: tuple[int, ...] = ()
    killed: bool = False
    unready: bool | None = True


EXPECTED = {
    "kill": Expected((137,)),
    "stop": Expected((137,), killed=True),
    "pause": Expected(),
    "gil": Expected((137,), killed=True),
    "gil-moment": Expected(),
    "forward": Expected((70,)),
    "term": Expected((0,)),
    "overload": Expected(unready=None),
    "grow": Expected((75,)),
    "disk-logs": Expected(unready=False),
    "hub-slow": Expected((137,)),
}


def codes(pod: Pod) -> list[int]:
    return [int(event.detail) for event in pod.kubelet.events if event.what == "exited"]


def test_the_faults_are_as_the_table_says() -> None:
    endings = {name: NAMED[name].ending for name in EXPECTED}
    assert endings == {name: "restarted" if e.codes else "unharmed" for name, e in EXPECTED.items()}


@pytest.mark.parametrize("name", EXPECTED)
def test_it_restarts_where_the_table_says_so(name: str, tmp_path: Path) -> None:
    fault, expected = NAMED[name], EXPECTED[name]
    try:
        with fault.scene(tmp_path) as scene, Pod(scene) as pod:
            wait_for("readiness", lambda: pod.kubelet.ready, pod.seen)
            before, began = len(pod.kubelet.events), time.monotonic()
            with Users(pod.page, fault.users, fault.pause) as users:
                inject(fault, pod, scene, restarts=bool(expected.codes))
                wait_for("readiness", lambda: pod.kubelet.ready, pod.seen)
                since = time.monotonic()
                wait_for(
                    "an answer",
                    lambda: any(o.kind == "verdict" and o.asked > since for o in users.outcomes),
                    pod.seen,
                )
            since_fault = pod.kubelet.words()[before:]
            assert tuple(codes(pod)) == expected.codes, pod.seen()
            assert pod.kubelet.restarts == len(expected.codes)
            assert ("KILL" in since_fault) == expected.killed, pod.seen()
            assert expected.unready in (None, "not ready" in since_fault), pod.seen()
            check_order(pod)
            print(f"{name}: {timing(pod.kubelet.events[before:], began)}")
    except Missing as missing:
        pytest.skip(str(missing))


def timing(events: list[Event], began: float) -> str:
    """When what happened to the pod, in seconds since the fault; `-rP` shows it (docs/scaling.md)."""
    shown = ("exited", "not ready", "ready", "started", "TERM", "KILL")
    return ", ".join(f"{e.what} {e.detail} {e.at - began:.1f}" for e in events if e.what in shown)


def inject(fault: Fault, pod: Any, scene: Any, *, restarts: bool) -> None:
    """Inject the fault and remove it after the restart, or when the kubelet has had time to decide."""
    began = time.monotonic()
    afterwards = fault.make(pod, scene)
    try:
        if restarts:
            wait_for("an exit", lambda: codes(pod), pod.seen)
        else:
            time.sleep(max(0.0, began + max(fault.lasts, DECIDED) - time.monotonic()))
    finally:
        if afterwards is not None:
            afterwards()
    if restarts:
        wait_for("a restart", lambda: pod.kubelet.restarts, pod.seen)


def check_order(pod: Pod) -> None:
    """Nothing but the startup probe before it succeeded; a kill is failures, hook, TERM and then KILL."""
    started = False
    for event in pod.kubelet.events:
        started = event.what == "startup succeeded" or (started and event.what != "exited")
        assert started or not event.what.startswith(("liveness", "readiness", "ready")), pod.seen()
    events = pod.kubelet.events
    ended = [event for event in events if event.what in ("liveness failed", "preStop", "TERM", "KILL")]
    if (kill := next((i for i, event in enumerate(ended) if event.what == "KILL"), None)) is None:
        return
    asked = ended[kill - 2 - LIVENESS["failureThreshold"] : kill + 1]
    assert [e.what for e in asked] == ["liveness failed"] * 3 + ["preStop", "TERM", "KILL"], pod.seen()
    for one, two in pairwise(asked[:3]):
        assert two.at - one.at > LIVENESS["periodSeconds"] - LIVENESS["timeoutSeconds"]
    assert asked[-1].at - asked[-3].at >= LIVENESS["terminationGracePeriodSeconds"]


def test_weights_that_only_produce_nan_end_in_the_back_off_where_the_guardian_halts(tmp_path: Path) -> None:
    fault = NAMED["own-nan"]
    assert fault.ending == "halted"
    with fault.scene(tmp_path) as scene, Pod(scene) as pod:
        wait_for("readiness", lambda: pod.kubelet.ready, pod.seen)
        fault.make(pod, scene)  # type: ignore[arg-type]
        wait_for("exits", lambda: len(codes(pod)) == 3, pod.seen)
    words = pod.kubelet.words()
    assert codes(pod)[:3] == [137, 78, 78], pod.seen()
    assert words.count("ready") == 1
    assert "preStop" not in words, "it exits before the kubelet has seen three failures"


def test_a_refused_setting_is_restarted_after_ever_longer_pauses(tmp_path: Path) -> None:
    """78 halts the guardian. A kubelet has no such code; `kubectl describe pod` shows it."""
    with with_settings("--max-batch", "many")(tmp_path) as scene, Pod(scene) as pod:
        wait_for("exits", lambda: len(codes(pod)) == 3, pod.seen)
        wait_for("a back-off", lambda: "back-off 20" in pod.kubelet.words(), pod.seen)
    assert codes(pod)[:3] == [78, 78, 78]
    assert [event.detail for event in pod.kubelet.events if event.what == "back-off"] == ["10", "20"]
    assert "ready" not in pod.kubelet.words()


def test_a_full_queue_takes_the_pod_out_of_its_services_and_back_without_a_restart(tmp_path: Path) -> None:
    flags = with_settings("--queue-size", "4", "--trusted-proxies", "127.0.0.1")
    enough, picture = threading.Event(), red_circle()

    def keep_asking(caller: str) -> None:
        while not enough.is_set():
            judge(pod.port, picture, *["there is a red circle"] * 2, caller=caller)

    with flags(tmp_path) as scene, Pod(scene) as pod, ThreadPoolExecutor(12) as pool:
        wait_for("readiness", lambda: pod.kubelet.ready, pod.seen)
        callers = [pool.submit(keep_asking, f"10.0.0.{number}") for number in range(12)]
        try:
            wait_for("a full queue", lambda: "not ready" in pod.kubelet.words(), pod.seen)
            time.sleep(DECIDED)
        finally:
            enough.set()
        for caller in callers:
            caller.result()
        wait_for("readiness", lambda: pod.kubelet.ready, pod.seen)
        assert pod.kubelet.restarts == 0
        assert "liveness failed 503" not in pod.kubelet.words()


def test_a_deleted_pod_serves_until_its_drain_delay_is_over(tmp_path: Path) -> None:
    """Balancers learn of the deletion late: every request that is sent before the port closes is answered."""
    picture, statuses = red_circle(), []
    with with_settings()(tmp_path) as scene, Pod(scene) as pod:
        wait_for("readiness", lambda: pod.kubelet.ready, pod.seen)
        wait_for("the page", lambda: judge(pod.port, picture, "a circle").status == 200, pod.seen)
        deleted = time.monotonic()
        pod.kubelet.delete()
        while not codes(pod):
            at = time.monotonic()
            try:
                statuses.append((at, judge(pod.port, picture, "there is a red circle").status))
            except (OSError, HTTPException):
                statuses.append((at, 0))
                time.sleep(0.05)
    events = pod.kubelet.events
    term = next(event.at for event in events if event.what == "TERM")
    drain = float(environment(pod_spec()["containers"][0])["OFA_DRAIN_DELAY"])
    served = [status for at, status in statuses if at < term + drain - 0.5]
    assert len(served) > 3
    assert set(served) == {200}, statuses
    assert pod.kubelet.words()[-1] == "exited 0"
    assert events[-1].at - term > drain
    assert events[-1].at - deleted < pod_spec()["terminationGracePeriodSeconds"] - times.STOP_TIMEOUT / 2
    polled = [event.at for event in events if event.what == "readiness failed" and event.detail == "503"]
    assert [at for at in polled if term < at < term + drain], "pollers see 503 while it serves"

"""Two engines behind two ingress replicas: what callers lose when a process of the cluster fails.

Prints the figures of docs/scaling.md: `make test-cluster ARGS=-rP`.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator

import pytest

from cluster.app import INGRESS_REPLICAS
from cluster.readiness import STALE_SECONDS
from lab.cluster.local import CONTROLLER, INGRESS, PROXY, Cluster
from lab.faults.users import red_circle
from lab.instances.load import CLIENTS, VERDICT, Load, large_picture
from tests.cluster.faults import SOME, fault

REPLICAS = 2
PICTURES = (red_circle(), large_picture())
FLAGS = ("--model", "demo", "--trusted-proxies", "127.0.0.1")
#: For faults within an engine, which its own limits end.
IMPATIENT = (
    *FLAGS,
    *("--timeout", "6", "--cancel-grace", "2", "--hang-limit", "6", "--probe-interval", "2"),
    *("--queue-size", "8"),
)
PLAIN = "JSONDecodeError"  # an error of Ray's proxy, in plain text


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster"), "FaultyJudge", REPLICAS, *FLAGS) as cluster:
        yield cluster
        assert cluster.terminate() == 0
        assert not cluster.find("")


@pytest.fixture(autouse=True)
def all_ready(cluster: Cluster) -> None:
    cluster.wait_ready(REPLICAS)
    cluster.wait_for("both ingresses", lambda: len(cluster.find(INGRESS)) == INGRESS_REPLICAS)


def replaced(cluster: Cluster, pid: int) -> Callable[[], bool]:
    def healed() -> bool:
        ready = cluster.ready()
        return len(ready) == REPLICAS and pid not in ready

    return healed


def test_a_killed_replica_loses_nothing(cluster: Cluster) -> None:
    pid = min(cluster.ready())
    with (
        Load(cluster.port, *PICTURES) as load,
        fault(
            "kill -9 of a replica",
            load,
            lambda: os.kill(pid, signal.SIGKILL),
            lambda: pid not in cluster.ready(),
            replaced(cluster, pid),
        ),
    ):
        pass
    assert not load.lost
    assert len({(call.size, call.label) for call in load.calls}) == len(PICTURES)


def test_nothing_is_lost_while_the_controller_is_away(cluster: Cluster) -> None:
    """What replicas report passes through it; the next test needs it to replace a replica."""
    (pid,) = cluster.find(CONTROLLER)

    def reports() -> bool:
        replicas = cluster.replicas()
        return len(replicas) == REPLICAS and all(one.age < STALE_SECONDS for one in replicas)

    with (
        Load(cluster.port, *PICTURES) as load,
        fault(
            "kill -9 of the controller",
            load,
            lambda: os.kill(pid, signal.SIGKILL),
            lambda: not reports(),
            reports,
        ),
    ):
        pass
    assert cluster.find(CONTROLLER) not in ([], [pid])
    assert not load.lost


def test_a_stopped_replica_loses_only_what_was_in_flight(cluster: Cluster) -> None:
    pid = min(cluster.ready())
    in_flight = 0

    def stop() -> None:
        nonlocal in_flight
        os.kill(pid, signal.SIGSTOP)
        in_flight = load.in_flight

    with (
        Load(cluster.port, *PICTURES) as load,
        fault(
            "SIGSTOP of a replica", load, stop, lambda: pid not in cluster.ready(), replaced(cluster, pid)
        ) as found,
    ):
        load.more(SOME)
    assert in_flight <= CLIENTS
    assert len(load.lost) <= in_flight
    assert not [call for call in load.lost if call.asked > found]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_a_lost_ingress_loses_only_what_it_held(cluster: Cluster, number: signal.Signals) -> None:
    """Its calls end when Ray has replaced it; the proxy repeats none."""
    pids = cluster.find(INGRESS)
    assert len(pids) == INGRESS_REPLICAS

    def healed() -> bool:
        now = cluster.find(INGRESS)
        return len(now) == INGRESS_REPLICAS and pids[0] not in now

    with (
        Load(cluster.port, *PICTURES) as load,
        fault(
            f"{number.name} of an ingress",
            load,
            lambda: os.kill(pids[0], number),
            lambda: pids[0] not in cluster.find(INGRESS),
            healed,
        ) as found,
    ):
        pass
    assert len(load.lost) <= CLIENTS
    assert {call.result for call in load.lost} <= {PLAIN}
    assert not [call for call in load.lost if call.asked > found]


def test_a_killed_proxy_comes_back(cluster: Cluster) -> None:
    """Until then connections are refused, as a machine has one proxy."""
    (pid,) = cluster.find(PROXY)
    with (
        Load(cluster.port, *PICTURES, pause=0.2) as load,
        fault(
            "kill -9 of the proxy",
            load,
            lambda: os.kill(pid, signal.SIGKILL),
            lambda: bool(load.lost),
            lambda: load.calls[-1].result == VERDICT,
        ),
    ):
        pass
    results = [call.result for call in sorted(load.calls, key=lambda call: call.asked)]
    print(Counter(results))
    last = len(results) - results[::-1].index("ConnectionRefusedError")
    assert set(results[last:]) == {VERDICT}


@pytest.fixture(scope="module")
def updated(cluster: Cluster) -> Load:
    """The load during a rolling update to IMPATIENT."""
    old = cluster.wait_ready(REPLICAS)
    with (
        Load(cluster.port, *PICTURES) as load,
        fault(
            "rolling update",
            load,
            lambda: cluster.deploy(*IMPATIENT),
            lambda: cluster.ready() != old,
            lambda: cluster.deployed,
        ),
    ):
        pass
    cluster.wait_ready(REPLICAS, without=old)
    return load


def test_a_rolling_update_loses_nothing(updated: Load) -> None:
    assert not updated.lost


def test_an_overload_is_refused_and_what_is_accepted_is_answered(cluster: Cluster, updated: Load) -> None:
    with Load(cluster.port, red_circle(), clients=60, distinct=True) as load:
        load.more(600)
    results = Counter(call.result for call in load.calls)
    assert set(results) == {VERDICT, "queue_full"}
    assert min(call.retry_after for call in load.lost) >= 1
    assert cluster.waiting() == 0
    print(f"60 clients: {results}")


def test_a_hanging_engine_loses_only_what_it_held(cluster: Cluster, updated: Load) -> None:
    pid = min(cluster.ready())
    with (
        Load(cluster.port, *PICTURES) as load,
        fault(
            "hanging engine",
            load,
            lambda: cluster.order("stuck", pid=pid),
            lambda: pid not in cluster.ready(),
            replaced(cluster, pid),
        ) as found,
    ):
        pass
    assert {call.result for call in load.lost} <= {"timeout", "stuck", "error"}
    assert len(load.lost) <= 2 * CLIENTS
    assert not [call for call in load.lost if call.asked > found]


def test_an_engine_that_only_produces_nan_is_replaced(cluster: Cluster, updated: Load) -> None:
    """Until its readiness says so, its callers get an error."""
    pid = min(cluster.ready())
    with (
        Load(cluster.port, *PICTURES) as load,
        fault(
            "NaN scores",
            load,
            lambda: cluster.order("nan", pid=pid),
            lambda: pid not in cluster.ready(),
            replaced(cluster, pid),
        ) as found,
    ):
        pass
    assert {call.result for call in load.lost} <= {"error"}
    late = [call for call in load.lost if call.asked > found]
    assert len(late) <= CLIENTS

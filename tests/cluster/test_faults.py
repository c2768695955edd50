"""Two replicas of the engine behind two of the ingress: what callers lose when a process of the cluster fails.

Prints the figures of docs/scaling.md: `make test-cluster ARGS=-rP`.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from lab.cluster.local import CONTROLLER, INGRESS, PROXY, Cluster
from lab.faults.users import red_circle
from lab.instances.load import CLIENTS, Load, large_picture
from tests.cluster.faults import SOME, fault

REPLICAS = 2
PICTURES = (red_circle(), large_picture())


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with Cluster(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster
        assert cluster.terminate() == 0
        assert not cluster.find("")


@pytest.fixture(autouse=True)
def all_ready(cluster: Cluster) -> None:
    cluster.wait_ready(REPLICAS)


def replaced(cluster: Cluster, pid: int) -> Callable[[], bool]:
    def healed() -> bool:
        ready = cluster.ready()
        return len(ready) == REPLICAS and pid not in ready

    return healed


def test_a_killed_replica_loses_nothing(cluster: Cluster) -> None:
    with Load(cluster.port, *PICTURES) as load:
        for pid in cluster.ready():  # one after the other
            with fault(
                "kill -9 of a replica",
                load,
                lambda pid=pid: os.kill(pid, signal.SIGKILL),
                lambda pid=pid: pid not in cluster.ready(),
                replaced(cluster, pid),
            ):
                pass
    assert not load.lost
    assert len({(call.size, call.label) for call in load.calls}) == len(PICTURES)


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


def test_nothing_is_lost_while_the_controller_is_away(cluster: Cluster) -> None:
    """A replica that is killed after the controller has come back is replaced."""
    (pid,) = cluster.find(CONTROLLER)
    with Load(cluster.port, *PICTURES) as load:
        with fault(
            "kill -9 of the controller",
            load,
            lambda: os.kill(pid, signal.SIGKILL),
            lambda: pid not in cluster.find(CONTROLLER),
            lambda: bool(cluster.find(CONTROLLER)),
        ):
            pass
        replica = min(cluster.ready())
        with fault(
            "kill -9 of a replica afterwards",
            load,
            lambda: os.kill(replica, signal.SIGKILL),
            lambda: replica not in cluster.ready(),
            replaced(cluster, replica),
        ):
            pass
    assert not load.lost


def test_a_killed_ingress_replica_loses_only_what_it_held(cluster: Cluster) -> None:
    pids = cluster.find(INGRESS)
    assert len(pids) == 2
    in_flight = 0

    def kill() -> None:
        nonlocal in_flight
        os.kill(pids[0], signal.SIGKILL)
        in_flight = load.in_flight

    def healed() -> bool:
        now = cluster.find(INGRESS)
        return len(now) == 2 and pids[0] not in now

    with (
        Load(cluster.port, *PICTURES) as load,
        fault(
            "kill -9 of an ingress replica", load, kill, lambda: pids[0] not in cluster.find(INGRESS), healed
        ),
    ):
        pass
    assert len(load.lost) <= in_flight


def test_a_killed_proxy_comes_back(cluster: Cluster) -> None:
    """Until then connections are refused: a machine has one."""
    (pid,) = cluster.find(PROXY)
    with (
        Load(cluster.port, *PICTURES, pause=0.2) as load,
        fault(
            "kill -9 of the proxy",
            load,
            lambda: os.kill(pid, signal.SIGKILL),
            lambda: bool(load.lost),
            lambda: len(cluster.ready()) == REPLICAS,
        ),
    ):
        pass
    print([(round(call.asked, 1), call.result) for call in load.lost][-20:])
    assert {call.result for call in load.lost} <= {
        "ConnectionRefusedError",
        "ConnectionResetError",
        "RemoteDisconnected",
    }

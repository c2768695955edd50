"""A head and two nodes: what callers lose when a node is lost. Prints the figures of docs/scaling.md."""

from __future__ import annotations

from pathlib import Path

from lab.cluster.local import INGRESS, Cluster
from lab.cluster.nodes import Nodes
from lab.faults.users import red_circle
from lab.instances.load import Load
from tests.cluster.faults import fault

REPLICAS = 4
NODES = ("127.0.0.2", "127.0.0.3")


def test_replicas_of_a_lost_node_come_back_on_the_other(tmp_path: Path) -> None:
    with (
        Nodes(len(NODES), cpus=5) as nodes,
        Cluster(
            tmp_path, "FaultyJudge", REPLICAS, "--model", "demo", environment=nodes.environment
        ) as cluster,
    ):
        cluster.wait_ready(REPLICAS)
        before = cluster.replicas()
        assert {one.node for one in before} == set(NODES)
        lost, kept = sorted(NODES, key=lambda node: nodes.holds(node, INGRESS))
        in_flight = 0

        def kill() -> None:
            nonlocal in_flight
            in_flight = load.in_flight if nodes.holds(lost, INGRESS) else 0
            nodes.kill(lost)

        with (
            Load(cluster.port, red_circle()) as load,
            fault(
                "loss of a node",
                load,
                kill,
                lambda: {one.node for one in cluster.replicas()} == {kept},
                lambda: len(cluster.ready()) == REPLICAS,
            ),
        ):
            pass
        assert {one.node for one in cluster.replicas()} == {kept}
        assert len(load.lost) <= in_flight

"""The arguments of cluster.app:build."""

from __future__ import annotations

import pytest

from cluster.app import build
from cluster.arguments import ArgumentError, Arguments


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"replica": 2}, "replica"),
        ({"replicas": "2"}, "replicas"),
        ({"replicas": 0}, "replicas"),
        ({"replicas": 2, "max_replicas": 1}, "max_replicas"),
        ({"gpus": 1.5}, "gpus"),
        ({"gpus": -1}, "gpus"),
        ({"flags": "--model demo"}, "flags"),
        ({"flags": ["--modle", "demo"]}, "--modle"),
        ({"flags": ["--timeout", "0"]}, "--timeout"),
    ],
)
def test_a_wrong_argument_is_named(given: dict[str, object], named: str) -> None:
    with pytest.raises(ArgumentError, match=named):
        build(given)


@pytest.mark.parametrize("gpus", [0, 0.25, 0.5, 1, 2])
def test_a_replica_takes_a_share_of_a_gpu_or_several(gpus: float) -> None:
    assert Arguments.read({"gpus": gpus}).gpus == gpus


def test_flags_win_over_those_of_the_cluster() -> None:
    arguments = Arguments.read({"cpus": 3, "flags": ["--health-port", "8100"]})
    assert arguments.settings().threads == 3
    assert (arguments.settings().health_host, arguments.settings().health_port) == ("127.0.0.1", 8100)


def test_an_application_is_built_of_plain_json() -> None:
    assert build({"replicas": 2, "max_replicas": 4, "gpus": 0.5, "flags": ["--model", "demo"]}) is not None

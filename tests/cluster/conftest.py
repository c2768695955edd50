"""Tests of the cluster: `make test-cluster`, in a network namespace and an environment with Ray."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from lab.instances.instance import Instance
from tests.applications import make
from tests.cluster.starting import start
from tests.fakes import clock

__all__ = ["clock", "make"]

collect_ignore_glob = [] if find_spec("ray") else ["*.py"]

if find_spec("ray"):
    with warnings.catch_warnings():  # warnings are errors in tests, and Ray's own import causes some
        warnings.simplefilter("ignore")
        importlib.import_module("ray.serve")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A cluster of two replicas without faults; it is up."""
    with start(tmp_path_factory.mktemp("cluster"), replicas=2) as started:
        started.wait_for("the cluster", lambda: "LISTENING" in started.output)
        yield started
        assert started.terminate() == 0, started.output

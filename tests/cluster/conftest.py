"""Tests of the cluster: `make test-cluster`, in a network namespace and an environment with Ray."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob = [] if find_spec("ray") else ["*.py"]

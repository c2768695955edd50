"""Conditions under which a test runs at all."""

from __future__ import annotations

import os

import pytest

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts, namespaces or cgroups")

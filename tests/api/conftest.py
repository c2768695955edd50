"""An application with a fake model behind the API, and the real service."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from tests.api.serving import ScriptedApplication, client, serving
from tests.applications import make
from tests.service_process import running_service

__all__ = ["make", "running_service"]


@pytest.fixture
def scripted() -> ScriptedApplication:
    return ScriptedApplication()


@pytest.fixture
def api(scripted: ScriptedApplication) -> Iterator[httpx.Client]:
    """A client of the API over the scripted application."""
    with serving(scripted, max_bytes=100_000, max_chars=100) as front, client(front) as one:
        yield one

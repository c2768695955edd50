"""One real process of the service, shared by all tests that only send requests.

A conftest imports the fixture: ``from tests.service_process import running_service``. The folders that do so
share one process, which ends with the session.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lab.instances.instance import Instance
from tests.web import in_front


class _Shared:
    """Count users; the first one starts the process, the last one stops it."""

    def __init__(self) -> None:
        self._users = 0
        self._held = ExitStack()
        self._instance: Instance | None = None

    def take(self, factory: pytest.TempPathFactory) -> Instance:
        if self._instance is None:
            run_dir = factory.mktemp("service")
            flags = ("--model", "demo", "--timeout", "60")
            instance = in_front.page_of(run_dir, *flags) if in_front.wanted() else Instance(run_dir, *flags)
            self._instance = self._held.enter_context(instance)
        self._users += 1
        return self._instance

    def leave(self) -> None:
        self._users -= 1
        if self._users == 0:
            self._held.close()
            self._instance = None


_shared = _Shared()


@pytest.fixture(scope="session")
def running_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A healthy service with the demo model and a long time limit, for busy machines."""
    instance = _shared.take(tmp_path_factory)
    try:
        instance.wait_healthy()
        yield instance
    finally:
        _shared.leave()

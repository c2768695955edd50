"""The application with --engine in the test's process, over a scripted API or a server that answers with
bytes."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from unittest import mock

import pytest

from service.build import Application, build
from service.settings import Settings
from tests.fakes import until
from tests.service_process import running_service

__all__ = ["running_service"]
Over = Callable[..., Application]


@pytest.fixture
def over(tmp_path: Path) -> Iterator[Over]:
    """Return a function that starts the application over the engine at a URL; stopped at the end."""
    numbers = itertools.count()
    with ExitStack() as stack:
        # So that no test waits for the next look at the engine.
        stack.enter_context(mock.patch.multiple("service.remote.watch", POLL_SECONDS=0.2, RETRY_SECONDS=0.05))
        stack.enter_context(mock.patch("service.remote.model.FIRST_SECONDS", 0.5))

        def start(url: str, *, ready: bool = True, **settings: object) -> Application:
            folder = tmp_path / f"run-{next(numbers)}"
            made = Settings(engine=url, run_dir=folder, **settings)  # type: ignore[arg-type]
            application = build(made)
            stack.callback(application.supervisor.stop, 0.0)
            application.supervisor.load()
            if ready:
                until(lambda: application.report().healthy and application.report().ready.ok)
            return application

        yield start

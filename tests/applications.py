"""Applications over a fake model and a fake hub, stopped at the end of the test.

A conftest imports the fixture: ``from tests.applications import make``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from unittest import mock

import pytest

from service.build import RETRY_GPU_PAUSE, Application, build
from service.hub.progress import Progress
from service.settings import Settings
from tests.fakes import FakePredictor

Build = Callable[..., Application]


class Hub:
    """Resolve to a folder, or raise the given failures first, one per call. A full check reports the files of
    ``damaged`` once."""

    def __init__(self, *failures: Exception, damaged: Sequence[str] = ()) -> None:
        self.failures = list(failures)
        self.damaged = list(damaged)
        self.asked: list[str] = []

    def __call__(
        self,
        model: str,
        *,
        progress: Callable[[Progress], None],
        verify: str,
        on_damaged: Callable[[Sequence[str]], None],
        **_: object,
    ) -> Path:
        self.asked.append(verify)
        if verify == "full" and self.damaged:
            on_damaged(self.damaged)
            self.damaged = []
        progress(Progress("pytorch_model.bin", 5, 10))
        if self.failures:
            raise self.failures.pop(0)
        return Path("/models") / model


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Build]:
    """Build applications that write into the test's folder."""
    made: list[Application] = []

    def _make(
        fake: FakePredictor | None = None,
        hub: Hub | None = None,
        exit_now: Callable[[int], object] | None = None,
        retry_gpu_pause: float = RETRY_GPU_PAUSE,
        **settings: object,
    ) -> Application:
        told = Settings(run_dir=tmp_path, **settings)  # type: ignore[arg-type]
        with mock.patch.multiple("service.build", LOAD_PAUSE=0.0, RETRY_GPU_PAUSE=retry_gpu_pause):
            made.append(build(told, model=fake or FakePredictor(), resolve=hub or Hub(), exit_now=exit_now))
        return made[-1]

    yield _make
    for application in made:
        application.supervisor.stop(0.0)

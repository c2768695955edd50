"""Fixtures for tests with a real process."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from lab.instances.instance import Instance
from tests.service_process import running_service

__all__ = ["running_service"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Instance]]:
    """Start instances with the given flags; all are killed at the end of the test."""
    with ExitStack() as running:
        yield lambda *arguments, **options: running.enter_context(
            Instance(tmp_path / "run", *arguments, **options)
        )


@pytest.fixture(scope="session")
def red_circle() -> bytes:
    """A PNG of a red circle on white."""
    picture = Image.new("RGB", (256, 192), "white")
    ImageDraw.Draw(picture).ellipse((80, 48, 176, 144), fill="red")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()

"""Fixtures of the tests that drive a real process from outside."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from tests.instance import Instance


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Instance]]:
    """Starts an instance with the given flags; all of them are gone when the test is over."""
    with ExitStack() as running:
        yield lambda *arguments, **options: running.enter_context(
            Instance(tmp_path / "run", *arguments, **options)
        )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """A healthy instance with the demo model, shared by the tests of a file; they only ask it things."""
    with Instance(tmp_path_factory.mktemp("demo"), "--model", "demo") as instance:
        instance.wait_healthy()
        yield instance


@pytest.fixture(scope="session")
def red_circle() -> bytes:
    """A PNG of a red circle on white."""
    picture = Image.new("RGB", (256, 192), "white")
    ImageDraw.Draw(picture).ellipse((80, 48, 176, 144), fill="red")
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()

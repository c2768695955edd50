"""Readers and pictures for tests; readers are stopped after each test."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from PIL import Image

from lab.faults.hostile_pictures import OK
from ofa.errors import ImageError
from ofa.picture import File
from service.intake.readers import Readers
from tests.fakes import PATIENCE


def saved(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


SMALL = saved(Image.new("RGB", (40, 30), (200, 30, 30)))


def read(readers: Readers, data: bytes, *, seconds: float = PATIENCE, **more: Any) -> Image.Image:
    deadline = time.monotonic() + seconds
    file = File(len(data), lambda: data)
    return readers.read(file, side=32, max_pixels=64_000_000, deadline=deadline, **more)[0]


def code_of(readers: Readers, data: bytes) -> str:
    """Return ``ok`` or the error code of reading a picture."""
    try:
        read(readers, data)
    except ImageError as error:
        return error.code
    return OK


Make = Callable[..., Readers]


@pytest.fixture
def make_readers() -> Iterator[Make]:
    made: list[Readers] = []

    def _make(**options: Any) -> Readers:
        made.append(Readers(**options))
        return made[-1]

    yield _make
    for readers in made:
        readers.stop()


def pids(readers: Readers) -> set[int]:
    return {pid for group in readers.pids() for pid in group}

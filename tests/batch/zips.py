"""Zips for tests, and the code with which one is refused."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from typing import BinaryIO

import pytest

from batch.rows import ListError


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def stream(data: bytes) -> BinaryIO:
    return io.BytesIO(data)


def refused(call: Callable[[], object]) -> str:
    """Return the code of the ListError that ``call`` raises."""
    with pytest.raises(ListError) as caught:
        call()
    return caught.value.code

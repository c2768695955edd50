"""Log files that a test opens and reads; a conftest imports the fixtures."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TextIO

import pytest

from service.telemetry.logs import Logs, flush

OpenLogs = Callable[..., Logs]


@pytest.fixture
def console() -> io.StringIO:
    return io.StringIO()


@pytest.fixture
def open_logs(tmp_path: Path, console: io.StringIO) -> Iterator[OpenLogs]:
    opened: list[Logs] = []

    def _open(
        folder: Path = tmp_path, *, max_bytes: int = 1_000_000, to: TextIO = console, **more: str
    ) -> Logs:
        logs = Logs(folder, max_bytes=max_bytes, backups=2, console=to, **more)
        logs.open()
        opened.append(logs)
        return logs

    yield _open
    for logs in opened:
        logs.close()


def lines(folder: Path, name: str = "web_app.log") -> list[str]:
    """Return the lines so far, except for the first one of each process."""
    flush()
    written = (folder / name).read_text(encoding="utf-8").splitlines()
    return [line for line in written if " | STARTED | " not in line and '"STARTED"' not in line]

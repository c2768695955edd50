"""What the doctor asks of a running instance, over a real sidecar with a state written by hand."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from doctor import live, read
from health_api import Sidecar
from service.health.resources import Resources, Use
from service.listening import listen
from tests.health.test_api import LOADING, SERVING, Told


@pytest.fixture
def application() -> Told:
    return Told(SERVING)


@pytest.fixture
def folder(application: Told, tmp_path: Path) -> Iterator[Path]:
    """The run folder of this very process, as the guardian and the log tell of it."""
    sidecar = Sidecar(application, listen("127.0.0.1", 0, "--health-port"))
    sidecar.start()
    tell(tmp_path, sidecar.port)
    yield tmp_path
    sidecar.stop()


def tell(folder: Path, port: int, pid: int | None = None) -> None:
    line = f"2026-11-22 20:00:00 | INFO     | Health: http://0.0.0.0:{port}/health\n"
    (folder / "web_app.log").write_text(line)
    (folder / "web_app.pid").write_text(f"{pid or os.getpid()}\nstarttime=1 boot=1\n")


def codes(folder: Path) -> list[str]:
    return [one.code for one in live.look(read(folder))]


def test_a_healthy_instance_is_nothing_to_tell(folder: Path) -> None:
    assert codes(folder) == []


def test_an_unhealthy_one_is_told_in_the_words_of_health(folder: Path, application: Told) -> None:
    application.snapshot = LOADING
    (finding,) = live.look(read(folder))
    assert (finding.code, finding.severity) == ("unhealthy-now", "critical")
    assert "model loading, inference failed: not yet proven" in finding.diagnosis


def test_a_fallback_is_told(folder: Path, application: Told) -> None:
    application.snapshot = replace(SERVING, degraded="computing on the CPU: the memory of cuda:0 is full")
    assert codes(folder) == ["degraded-now"]


def test_a_disk_that_runs_full_is_told(
    folder: Path, application: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Resources(at=100.0, memory=Use(1, 10), memory_by="host", disk=Use(86, 100))
    monkeypatch.setattr("tests.health.test_api.Resources", lambda **_: full)
    assert codes(folder) == ["resources-short"]


def test_a_process_that_lives_and_does_not_answer_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    tell(tmp_path, port)
    assert codes(tmp_path) == ["not-answering"]


def test_an_instance_that_does_not_run_is_not_asked(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        tell(folder, nobody.getsockname()[1], pid=4_194_305)  # beyond every PID there can be
        assert codes(folder) == []


def test_an_answer_that_is_none_of_ours_is_no_answer(tmp_path: Path, application: Told) -> None:
    application.report = lambda: 1 / 0  # type: ignore[method-assign, return-value, assignment]
    sidecar = Sidecar(application, listen("127.0.0.1", 0, "--health-port"))
    sidecar.start()
    try:
        tell(tmp_path, sidecar.port)
        assert codes(tmp_path) == ["not-answering"]
    finally:
        sidecar.stop()

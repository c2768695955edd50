"""Findings in the health endpoint of a running instance: a real sidecar over a state made by hand."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from doctor import live, read
from health_api import Sidecar
from service.health.resources import Resources, Use
from service.listening import listen
from tests.health.test_api import LOADING, SERVING, Told

#: How a log names the address: now, and in older logs.
FORMS = ("LISTENING | SERVER=health | URL=", "Health: ")


@pytest.fixture
def application() -> Told:
    return Told(SERVING)


@pytest.fixture
def folder(application: Told, tmp_path: Path) -> Iterator[Path]:
    """A run folder whose web_app.pid names this process."""
    sidecar = Sidecar(application, listen("127.0.0.1", 0, "--health-port"))
    sidecar.start()
    write(tmp_path, sidecar.port)
    yield tmp_path
    sidecar.stop()


def write(folder: Path, port: int, pid: int | None = None, form: str = FORMS[0]) -> None:
    line = f"2026-11-22 20:00:00 | INFO     | {form}http://0.0.0.0:{port}/health\n"
    (folder / "web_app.log").write_text(line)
    (folder / "web_app.pid").write_text(f"{pid or os.getpid()}\nstarttime=1 boot=1\n")


def codes(folder: Path) -> list[str]:
    return [one.code for one in live.check(read(folder))]


def test_a_healthy_instance_has_no_findings(folder: Path) -> None:
    assert codes(folder) == []


def test_an_unhealthy_instance_is_found_with_its_details(folder: Path, application: Told) -> None:
    application.snapshot = LOADING
    (finding,) = live.check(read(folder))
    assert (finding.code, finding.severity) == ("unhealthy-now", "critical")
    assert "model loading, inference failed: not yet proven" in finding.text().diagnosis


def test_fallback_mode_is_found(folder: Path, application: Told) -> None:
    application.snapshot = replace(SERVING, degraded="computing on the CPU: the memory of cuda:0 is full")
    assert codes(folder) == ["degraded-now"]


def test_a_nearly_full_disk_is_found(
    folder: Path, application: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Resources(at=100.0, memory=Use(1, 10), memory_by="host", disk=Use(86, 100))
    monkeypatch.setattr("tests.health.test_api.Resources", lambda **_: full)
    assert codes(folder) == ["resources-short"]


def test_a_process_that_does_not_answer_is_found(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    write(tmp_path, port)
    assert codes(tmp_path) == ["not-answering"]


@pytest.mark.parametrize("form", FORMS)
def test_the_address_is_read_from_either_form_of_log(folder: Path, application: Told, form: str) -> None:
    application.snapshot = LOADING
    port = int((folder / "web_app.log").read_text().rpartition(":")[2].partition("/")[0])
    write(folder, port, form=form)
    assert codes(folder) == ["unhealthy-now"]


def test_a_server_that_does_not_speak_http_is_no_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        write(tmp_path, server.getsockname()[1])

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        assert codes(tmp_path) == ["not-answering"]
        thread.join()


def test_a_process_that_does_not_exist_is_not_requested(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        write(folder, nobody.getsockname()[1], pid=4_194_305)  # beyond every PID there can be
        assert codes(folder) == []


def test_an_answer_that_is_not_json_is_no_answer(tmp_path: Path, application: Told) -> None:
    application.report = lambda: 1 / 0  # type: ignore[method-assign, return-value, assignment]
    sidecar = Sidecar(application, listen("127.0.0.1", 0, "--health-port"))
    sidecar.start()
    try:
        write(tmp_path, sidecar.port)
        assert codes(tmp_path) == ["not-answering"]
    finally:
        sidecar.stop()

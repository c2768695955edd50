"""The systemd unit, checked by systemd-analyze, and the notifications of the process."""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from service.health.report import Check, Report
from service.process.systemd import Systemd

ROOT = Path(__file__).resolve().parents[2]
UNIT = ROOT / "deploy" / "systemd" / "visual-entailment.service"
TEMPLATE = UNIT.with_name("visual-entailment@.service")

LOADING = Report(
    healthy=False,
    live=Check(True),
    ready=Check(False),
    startup=Check(False, "loading: 1 of 2 bytes"),
    leaving=None,
    details={},
    more={},
    timestamp=0,
)
SERVING = replace(LOADING, healthy=True, startup=Check(True))
HUNG = replace(SERVING, live=Check(False, "hung"))


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    """The notification socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(tmp_path / "notify"))
        channel.settimeout(60)
        yield channel


def heard(listener: socket.socket) -> list[str]:
    """Return the messages so far."""
    told = []
    listener.setblocking(False)
    while True:
        try:
            told.append(listener.recv(4096).decode())
        except BlockingIOError:
            return told


def test_it_is_ready_when_loaded_and_notifies_the_watchdog_while_live(listener: socket.socket) -> None:
    report = LOADING
    systemd = Systemd(lambda: report, {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "20000000"})
    systemd.poll()
    systemd.poll()
    assert heard(listener) == ["STATUS=loading: 1 of 2 bytes\nEXTEND_TIMEOUT_USEC=300000000"]
    report = SERVING
    systemd.poll()
    systemd.poll()
    assert heard(listener) == ["READY=1\nSTATUS=serving", "WATCHDOG=1", "WATCHDOG=1"]
    report = HUNG
    systemd.poll()
    assert heard(listener) == []
    systemd.extend(33.5)
    assert heard(listener) == ["EXTEND_TIMEOUT_USEC=33500000"]
    systemd.stop()
    assert heard(listener) == ["STOPPING=1"]


def test_its_thread_sends_notifications(listener: socket.socket) -> None:
    systemd = Systemd(lambda: SERVING, {"NOTIFY_SOCKET": listener.getsockname()})
    systemd.start()
    assert listener.recv(4096) == b"READY=1\nSTATUS=serving"
    systemd.stop()
    assert heard(listener) == ["STOPPING=1"], "no watchdog is configured"


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": "/nowhere/notify"}])
def test_a_missing_socket_is_no_error(environ: dict[str, str]) -> None:
    systemd = Systemd(lambda: SERVING, environ)
    systemd.start()
    systemd.poll()
    systemd.stop()


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
@pytest.mark.parametrize(("unit", "name"), [(UNIT, UNIT.name), (TEMPLATE, "visual-entailment@2.service")])
def test_systemd_accepts_the_unit(tmp_path: Path, unit: Path, name: str) -> None:
    """With the paths of this checkout, as systemd-analyze requires that the programs exist."""
    text = unit.read_text().replace("/opt/visual-entailment/.venv/bin/python", sys.executable)
    (tmp_path / name).write_text(text.replace("/opt/visual-entailment", str(ROOT)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", tmp_path / name],
        capture_output=True,
        text=True,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "visual-entailment" in line]
    assert not complaints
    assert done.returncode == 0, done.stderr


def settings_of(unit: Path) -> set[str]:
    lines = unit.read_text().replace("\\\n", "").splitlines()
    return {line for line in lines if "=" in line and not line.startswith("#")}


def test_the_template_differs_from_the_unit_only_in_what_each_instance_has_of_its_own() -> None:
    differing = settings_of(UNIT) ^ settings_of(TEMPLATE)
    names = {"Description", "StateDirectory", "Environment", "EnvironmentFile", "ExecStart"}
    assert {line.partition("=")[0] for line in differing} == names


def test_the_template_gives_each_instance_its_own_ports() -> None:
    """Its command line, run as systemd would for instance 3, with a program that prints its arguments."""
    (command,) = (line.partition("=")[2] for line in settings_of(TEMPLATE) if line.startswith("ExecStart="))
    command = command.replace("/opt/visual-entailment/.venv/bin/python", "echo")
    words = shlex.split(command.replace("%i", "3").replace("$$", "$"))
    environment = {"OFA_PORT": "7860", "OFA_HEALTH_PORT": "8000"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[1:] == ["--port", "7862", "--health-port", "8002"]

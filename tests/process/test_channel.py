"""The guardian's channel of the real process, also while others hold connections to its ports."""

from __future__ import annotations

import contextlib
import socket
import stat
import urllib.request
from pathlib import Path

import pytest

from lab.instances.channel import ask
from lab.instances.instance import Instance
from service.health import channel

CROWD = 1_100


def test_the_socket_is_private_and_answers_the_guardian(
    running_service: Instance,
) -> None:
    path = running_service.run_dir / channel.SOCKET
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    told = ask(running_service.run_dir)
    assert list(told)[-1] == "END"
    expected = {
        "LIVE": "yes",
        "STARTED": "yes",
        "HEALTHY": "yes",
        "MODEL": "loaded",
        "LEAVING": "",
        "READY": "yes",
        "PHASE": "loaded",
        "QUEUE": "0",
        "DEVICE": "cpu",
    }
    assert {key: told[key] for key in expected} == expected
    assert told["EVIDENCE_AGE"].isdigit()


@pytest.mark.parametrize("port", ["page", "health"])
def test_idle_connections_do_not_block_other_clients(running_service: Instance, port: str) -> None:
    where = running_service.port if port == "page" else running_service.health_port
    with contextlib.ExitStack() as held:
        for _ in range(CROWD):
            held.enter_context(socket.create_connection(("127.0.0.1", where), timeout=60))
        assert ask(running_service.run_dir)["LIVE"] == "yes"
        assert running_service.get("/livez")[0] == 200
        with urllib.request.urlopen(f"{running_service.page}/status", timeout=60) as answer:
            assert answer.status == 200
        lines = running_service.get("/metrics")[1].splitlines()
    closed = f'ofa_connections_closed_total{{port="{port}",reason="cap"}} '
    (dropped,) = (float(line.removeprefix(closed)) for line in lines if line.startswith(closed))
    assert dropped > CROWD / 2


def test_a_run_directory_path_longer_than_a_socket_address(tmp_path: Path) -> None:
    with Instance(tmp_path / ("a" * 120), "--model", "demo", program="health_api.py") as instance:
        instance.wait_healthy()
        assert ask(instance.run_dir)["HEALTHY"] == "yes"


def test_without_a_socket_a_heartbeat_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / channel.SOCKET).mkdir()  # a file system without Unix sockets
    with Instance(tmp_path, "--model", "demo", program="health_api.py") as instance:
        instance.wait_healthy()
        assert "CHANNEL | SOCKET=none" in instance.log

        def beat() -> int:
            return int((tmp_path / channel.HEARTBEAT).read_text())

        first = beat()
        instance.wait_for("a beat", lambda: beat() > first)
        assert instance.terminate() == 0
    assert not (tmp_path / channel.HEARTBEAT).exists()

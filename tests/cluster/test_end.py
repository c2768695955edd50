"""The end of a cluster: in order, whenever it is asked for."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import httpx
import psutil
import pytest

from cluster import local
from lab.instances.instance import Instance
from service.contract.causes import ExitCode
from tests.cluster.starting import start


def test_it_ends_in_order(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.touch(0o600)
    keys.write_text(f"owner {'0' * 64} 60 4\n")
    with start(tmp_path, 1, "--api-keys-file", str(keys)) as cluster:
        cluster.wait_for("the cluster", lambda: "LISTENING" in cluster.output)
        headers = {"X-API-Key": "wrong", "X-Forwarded-For": "192.0.2.7"}
        assert httpx.get(f"{cluster.page}/v1/model", headers=headers).json()["code"] == "wrong_key"
        children = psutil.Process(cluster.process.pid).children(recursive=True)
        folder = Path(children[0].environ()["RAY_AUTH_TOKEN_PATH"]).parent
        assert cluster.terminate() == 0
    assert json.loads((tmp_path / "replica-0" / "last_exit.json").read_text())["code"] == 0
    _, left = psutil.wait_procs(children, 30)
    assert left == []
    assert not folder.exists()
    # No client of this machine can name another address as its own.
    logs = [path.read_text() for path in tmp_path.glob("ingress-*/web_app.log")]
    assert "| FROM=127.0.0.1 |" in "".join(logs)
    assert "192.0.2.7" not in "".join(logs)


def test_it_ends_with_a_process_that_it_cannot_do_without(tmp_path: Path) -> None:
    with start(tmp_path, replicas=1) as cluster:
        cluster.wait_for("the cluster", lambda: "LISTENING" in cluster.output)
        children = psutil.Process(cluster.process.pid).children(recursive=True)
        folder = Path(children[0].environ()["RAY_AUTH_TOKEN_PATH"]).parent
        next(one for one in children if one.name() == "raylet").kill()
        assert cluster.exit_code() == ExitCode.LOAD_FAILED
        assert "CODE=ray_ended" in cluster.output
    _, left = psutil.wait_procs(children, 30)
    assert left == []
    assert not folder.exists()


def test_it_ends_before_ray_has_started(tmp_path: Path) -> None:
    with start(tmp_path, replicas=1) as cluster:
        program = psutil.Process(cluster.process.pid)
        cluster.wait_for("Ray", lambda: "gcs_server" in [one.name() for one in program.children()])
        children = program.children(recursive=True)
        assert cluster.terminate() == 0
    _, left = psutil.wait_procs(children, 30)
    assert left == []


def test_what_a_killed_cluster_left_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    left = tmp_path / f"{local.PREFIX}left"
    waiting = (sys.executable, "-c", "input()")
    with (
        local._folder() as running,
        subprocess.Popen([*waiting, str(tmp_path)], stdin=subprocess.PIPE) as other,
        subprocess.Popen([*waiting, str(left)], stdin=subprocess.PIPE) as process,
    ):
        left.mkdir()
        (left / local.LOCK).touch()
        with local._folder():
            assert process.wait(60) < 0
        assert not left.exists()
        assert running.exists()
        assert other.poll() is None
        other.kill()


def test_it_ends_while_it_starts(tmp_path: Path) -> None:
    with start(tmp_path, replicas=1) as cluster:
        cluster.wait_for("Serve", lambda: "Started Serve" in cluster.output)
        children = psutil.Process(cluster.process.pid).children(recursive=True)
        assert cluster.terminate() == 0
    _, left = psutil.wait_procs(children, 30)
    assert left == []


def test_it_ends_if_the_model_cannot_be_loaded(tmp_path: Path) -> None:
    with start(tmp_path, 1, "--model", str(tmp_path / "none")) as cluster:
        assert cluster.exit_code() == ExitCode.LOAD_FAILED
        assert "CODE=not_started" in cluster.output
    assert "MODEL_NOT_LOADED" in (tmp_path / "replica-0" / "web_app.log").read_text()


def test_a_taken_port_is_named_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Instance(tmp_path, "cluster", "--port", f"{port}", program="-m") as cluster:
            assert cluster.exit_code() == ExitCode.PORT_TAKEN
            assert f"{port}" in cluster.output


def test_a_wrong_argument_is_refused_at_once(tmp_path: Path) -> None:
    with start(tmp_path, replicas=0) as cluster:
        assert cluster.exit_code() == ExitCode.CONFIGURATION
        assert "replicas" in cluster.output

"""The end of a cluster: in order, whenever it is asked for."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import psutil

from lab.instances.client import judge
from lab.instances.instance import Instance
from service.contract.causes import ExitCode
from tests.cluster.starting import start
from tests.cluster.test_serving import PICTURE


def test_it_ends_in_order(tmp_path: Path) -> None:
    with start(tmp_path, replicas=1) as cluster:
        cluster.wait_for("the cluster", lambda: "LISTENING" in cluster.output)
        assert judge(cluster.port, PICTURE, "a red circle").status == 200
        children = psutil.Process(cluster.process.pid).children(recursive=True)
        folder = Path(children[0].environ()["RAY_AUTH_TOKEN_PATH"]).parent
        assert cluster.terminate() == 0
    assert json.loads((tmp_path / "replica-0" / "last_exit.json").read_text())["code"] == 0
    _, left = psutil.wait_procs(children, 30)
    assert left == []
    assert not folder.exists()


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
        assert "NOT_STARTED" in cluster.output
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

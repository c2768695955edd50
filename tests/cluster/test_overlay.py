"""The overlay for KubeRay with Ray in it: its configuration, and its two pods, started as the operator does.

Each pod is a container as the manifest says (user, read-only root, volumes) in a network of its own, which
needs root. KubeRay's operator is not here.
"""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from ray.scripts.scripts import start
from ray.serve import schema

from lab import ROOT
from lab.instances.guarded import wait_for
from lab.kubernetes.container import Container, image_environment
from service.api_keys import make

OVERLAY = ROOT / "deploy" / "kubernetes" / "ray" / "rayservice.yaml"
SPEC: dict[str, Any] = yaml.safe_load(OVERLAY.read_text(encoding="utf-8"))["spec"]
HEAD = SPEC["rayClusterConfig"]["headGroupSpec"]
(WORKERS,) = SPEC["rayClusterConfig"]["workerGroupSpecs"]
PICTURE = ROOT / "models" / "demo" / "examples" / "colour.png"
SCHEMA = ROOT / "lab" / "kubernetes" / "schemas" / "serve_config.json"
WHOLE_RANGE = ["0", "0", "4294967295"]  # every user of the machine exists in this namespace
DRAIN = {"RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "2"}  # no other node could take its replicas
PAUSE = 0.5  # seconds between two looks
NETWORK = "10.9.0"  # of the two pods alone


# ---- the configuration -----------------------------------------------------------------------------------


def test_the_schema_kept_by_hand_has_only_keys_that_ray_knows() -> None:
    deploy = json.loads(SCHEMA.read_text())["properties"]
    application = deploy["applications"]["items"]["properties"]
    deployment = application["deployments"]["items"]["properties"]
    assert deploy.keys() <= schema.ServeDeploySchema.model_fields.keys()
    assert deploy["http_options"]["properties"].keys() <= schema.HTTPOptionsSchema.model_fields.keys()
    assert application.keys() <= schema.ServeApplicationSchema.model_fields.keys()
    assert deployment.keys() <= schema.DeploymentSchema.model_fields.keys()


def test_ray_accepts_the_configuration_and_the_parameters_of_its_start() -> None:
    schema.ServeDeploySchema.model_validate(yaml.safe_load(SPEC["serveConfigV2"]))
    options = {name for option in start.params for name in option.opts}
    for group in (HEAD, WORKERS):
        assert {f"--{name}" for name in group["rayStartParams"]} <= options


# ---- the pods --------------------------------------------------------------------------------------------


class Pod:
    """One pod of the overlay at the address ``NETWORK.number``, in the network of the process ``sleeper``."""

    def __init__(self, group: dict[str, Any], number: int, folder: Path, token: str, extra: str) -> None:
        self.address = f"{NETWORK}.{number}"
        self._started = False
        self.sleeper = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        wait_for("a network", lambda: _network(self.sleeper.pid) != _network(os.getpid()))
        self.enter = ("nsenter", f"--target={self.sleeper.pid}", "--net")
        self.volumes = {
            volume["name"]: folder / volume["name"] for volume in group["template"]["spec"]["volumes"]
        }
        for volume in self.volumes.values():
            volume.mkdir(parents=True)
        self._container = Container(
            _with_command(group, f"--node-ip-address={self.address} {extra}"),
            folder / "container",
            self.volumes,
            changes=image_environment(ROOT / "deploy" / "Dockerfile.ray")
            | {"RAY_AUTH_TOKEN": token, **DRAIN},
            enter=self.enter,
        )

    def start(self) -> None:
        """Return when Ray's node is healthy."""
        self._container.start()
        self._started = True
        node = f"{self.address}:52365/api/healthz"
        wait_for(
            "Ray",
            lambda: time.sleep(PAUSE) or self.get(node)[0] == 200,
            lambda: self._container.output[-3000:],
        )

    def run(self, *command: str) -> str:
        """Run a command in the pod's network."""
        done = subprocess.run([*self.enter, *command], capture_output=True, text=True, check=True)
        return done.stdout

    def get(self, address: str, *options: str) -> tuple[int, Any]:
        """Return status and body from ``address``, called in this pod; status 0 if it cannot be reached."""
        command = ["curl", "-sS", "-m", "30", "-w", "\\n%{http_code}", *options, f"http://{address}"]
        done = subprocess.run([*self.enter, *command], capture_output=True, text=True)
        body, _, status = done.stdout.rpartition("\n")
        return int(status), body

    def terminate(self) -> None:
        """End the pod's command as the kubelet does, and return when it has exited."""
        self._container.send(signal.SIGTERM)
        assert self._container.wait(60) is not None

    def kill(self) -> None:
        """Kill all that is left in the pod's network."""
        for process in psutil.process_iter():
            with contextlib.suppress(OSError, psutil.Error):
                if _network(process.pid) == _network(self.sleeper.pid) and process.pid != self.sleeper.pid:
                    process.kill()
        if self._started:
            self._container.wait(60)
        self.sleeper.kill()
        self.sleeper.wait()


def _network(pid: int) -> str:
    return os.readlink(f"/proc/{pid}/ns/net")


def _with_command(group: dict[str, Any], extra: str) -> dict[str, Any]:
    """The pod's specification with the command that KubeRay's operator writes."""
    spec: dict[str, Any] = copy.deepcopy(group["template"]["spec"])
    parameters = {
        "metrics-export-port": "8080",
        "dashboard-agent-listen-port": "52365",
        **group["rayStartParams"],
    }
    words = " ".join(f"--{name}={value}" for name, value in parameters.items())
    (container,) = spec["containers"]
    container["command"] = ["/bin/bash", "-c", "--", f"ulimit -n 65536; ray start {words} {extra} --block"]
    return spec


@pytest.fixture
def pods(tmp_path: Path) -> Iterator[tuple[Pod, Pod, str, str]]:
    """Head and worker, started, Ray's token and an API key."""
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split() != WHOLE_RANGE:
        pytest.skip("needs root, and the user of the image")
    token = secrets.token_hex(32)
    head = Pod(HEAD, 1, tmp_path / "head", token, "--head --port=6379 --no-monitor")
    worker = Pod(
        WORKERS, 2, tmp_path / "worker", token, f"--address={NETWORK}.1:6379 --num-cpus=5 --num-gpus=1"
    )
    key = make(worker.volumes["secrets"] / "api_keys", "tests")
    (worker.volumes["secrets"] / "api_keys").chmod(0o440)
    try:
        _join(head, worker)
        for pod in (head, worker):
            pod.start()
        yield head, worker, token, key
    finally:
        for pod in (worker, head):
            pod.kill()


def _join(head: Pod, worker: Pod) -> None:
    """Connect two networks with a virtual cable."""
    cable = (
        "ip",
        "link",
        "add",
        "cable",
        "type",
        "veth",
        "peer",
        "name",
        "cable",
        "netns",
        str(worker.sleeper.pid),
    )
    head.run(*cable)
    for pod in (head, worker):
        pod.run("ip", "address", "add", f"{pod.address}/24", "dev", "cable")
        for device in ("lo", "cable"):
            pod.run("ip", "link", "set", device, "up")


def _demo() -> dict[str, Any]:
    """The overlay's configuration with the demo model, for one worker without a card."""
    config: dict[str, Any] = yaml.safe_load(SPEC["serveConfigV2"])
    (application,) = config["applications"]
    flags = [flag for flag in application["args"]["flags"] if not flag.startswith(("--model", "--device"))]
    application["args"] |= {
        "max_replicas": 2,
        "flags": [*flags, "--model=demo", "--device=cpu", "--threads=1"],
    }
    application["deployments"][0]["max_replicas_per_node"] = 2
    return config


def test_both_pods_run_ray_and_serve_the_configuration(pods: tuple[Pod, Pod, str, str]) -> None:
    head, worker, token, key = pods
    proxy = f"{worker.address}:8000"
    dashboard = f"{head.address}:8265/api/serve/applications/"
    put = ("-X", "PUT", "-H", "Content-Type: application/json", "-d", json.dumps(_demo()))
    assert worker.get(dashboard, *put)[0] == 401, "whoever may deploy may run code"
    assert head.get(f"{proxy}/-/healthz")[0] == 0, "the worker is not ready before it can serve"

    bearer = ("-H", f"Authorization: Bearer {token}")
    assert worker.get(dashboard, *put, *bearer)[0] == 200

    def status() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(worker.get(dashboard, *bearer)[1])["applications"]
        return found["visual-entailment"]

    wait_for("the replicas", lambda: time.sleep(PAUSE) or status()["status"] != "DEPLOYING")
    assert status()["status"] == "RUNNING", status()["message"]
    nodes = {
        replica["node_ip"]
        for deployment in status()["deployments"].values()
        for replica in deployment["replicas"]
    }
    assert nodes == {worker.address}, "nothing runs on the head"
    wait_for("reports", lambda: time.sleep(PAUSE) or len(json.loads(head.get(f"{proxy}/targets")[1])) == 2)
    targets = [target["targets"][0] for target in json.loads(head.get(f"{proxy}/targets")[1])]
    assert sorted(targets) == [f"{worker.address}:8100", f"{worker.address}:8101"]
    assert [head.get(f"{target}/health/simple")[0] for target in targets] == [200, 200]
    assert head.get(f"{proxy}/-/healthz")[0] == 200

    body = {"image": base64.b64encode(PICTURE.read_bytes()).decode(), "text": "a red circle"}
    judge = (f"{proxy}/v1/judge", "-H", "Content-Type: application/json", "-d", json.dumps(body))
    assert json.loads(head.get(*judge)[1])["code"] == "no_key"
    code, answer = head.get(*judge, "-H", f"Authorization: Bearer {key}")
    assert (code, json.loads(answer)["results"][0]["reason"]) == (200, None)

    worker.terminate()
    files = sorted(worker.volumes["run"].glob("replica-*/last_exit.json"))
    assert [json.loads(file.read_text())["code"] for file in files] == [0, 0]
    assert {file.stat().st_uid for file in files} == {10001}

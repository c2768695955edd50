"""A page process in front of a real engine process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from lab.faults.service import Service
from lab.instances.guarded import wait_for
from lab.instances.instance import ROOT, Instance
from lab.instances.ports import free_ports
from tests.fakes import PATIENCE
from tests.scaling import documented

PICTURE = (ROOT / "models" / "demo" / "examples" / "existence.png").read_bytes()
TEXTS = ("there is a red circle", "there is a blue square")


@pytest.fixture(scope="module")
def page(running_service: Instance, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    folder = tmp_path_factory.mktemp("page")
    with Instance(folder, "--engine", running_service.page, "--timeout", "60") as page:
        page.wait_healthy()
        yield page


def judge(instance: Instance, *texts: str, picture: bytes = PICTURE) -> httpx.Response:
    return httpx.post(
        f"{instance.page}/v1/judge", data={"text": list(texts)}, files={"image": picture}, timeout=PATIENCE
    )


def test_the_verdict_is_the_engines_own(page: Instance, running_service: Instance) -> None:
    here, there = (judge(instance, *TEXTS).json() for instance in (page, running_service))
    assert here["results"] == there["results"]
    assert [one["label"] for one in here["results"]] == ["Yes", "No"]
    assert here["model"] == there["model"]
    by_page = page.judge(PICTURE, TEXTS[0])
    assert {name: by_page[name] for name in ("label", "scores", "reason")} == {
        name: there["results"][0][name] for name in ("label", "scores", "reason")
    }


def test_the_log_lines_of_both_processes_share_an_id(page: Instance, running_service: Instance) -> None:
    answer = judge(page, TEXTS[0])
    line = f"CLIENT_ID={answer.headers['x-request-id']}"
    running_service.wait_for(line, lambda: line in running_service.log)


def test_the_model_and_its_limits_are_the_engines(page: Instance, running_service: Instance) -> None:
    here, there = (httpx.get(f"{one.page}/v1/model", timeout=PATIENCE) for one in (page, running_service))
    assert here.json() == there.json()
    health = json.loads(page.get("/health")[1])
    assert health["model"]["name"] == "demo"
    assert health["remote"]["url"] == running_service.page
    assert health["remote"]["problem"] is None


def test_the_process_loads_no_network_and_starts_no_readers(page: Instance) -> None:
    judge(page, TEXTS[0])
    mapped = Path(f"/proc/{page.process.pid}/maps").read_text()
    assert not [name for name in ("libtorch", "tokenizers", "safetensors") if name in mapped]
    assert psutil.Process(page.process.pid).children() == []


def test_batches_are_not_here(page: Instance) -> None:
    answer = httpx.get(f"{page.page}/v1/batches/{'0' * 32}", timeout=PATIENCE)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_here")
    assert not (page.run_dir / "batches").exists()
    assert 'id="batch"' not in httpx.get(page.page, timeout=PATIENCE).text


SCRIPT = """
import json, sys
from web_app import InputError, health_check, init_model, predict
assert init_model()
verdict = predict(sys.argv[1], "there is a red circle")
try:
    predict(sys.argv[2], "there is a red circle")
except InputError as error:
    refused = str(error.code)
imported = [name for name in ("torch", "ofa.network", "flask", "gradio") if name in sys.modules]
print(json.dumps([verdict["label"], refused, imported, health_check()["model"]]))
"""


def test_a_script_asks_the_engine_too(running_service: Instance, tmp_path: Path) -> None:
    picture, text = ROOT / "models" / "demo" / "examples" / "existence.png", tmp_path / "text"
    text.write_text("no picture")
    ran = subprocess.run(
        [sys.executable, "-c", SCRIPT, picture, text],
        cwd=ROOT,
        env={**os.environ, "OFA_ENGINE": running_service.page, "OFA_RUN_DIR": str(tmp_path)},
        capture_output=True,
        timeout=PATIENCE * 4,
    )
    assert json.loads(ran.stdout.splitlines()[-1]) == ["Yes", "not_an_image", [], "loaded"], ran.stderr


def test_the_page_outlives_its_engine(tmp_path: Path) -> None:
    """Before the engine is there, after it was killed, and when it is back: one process, which says so."""
    ports = tuple(free_ports(2))
    url = f"http://127.0.0.1:{ports[0]}"
    with Instance(tmp_path / "page", "--engine", url, "--timeout", "60", "--probe-interval", "2") as page:
        page.wait_for("its log", lambda: "ENGINE_UNUSABLE" in page.log and "SERVER=page" in page.log)
        pid = page.process.pid
        _says_no_instance(page)
        for _ in range(2):
            with Instance(tmp_path / "engine", "--model", "demo", "--page", "off", ports=ports):  # type: ignore[arg-type]
                page.wait_healthy()
                page.wait_for("readiness", lambda: page.get("/readyz")[0] == 200)
                assert judge(page, TEXTS[0]).json()["results"][0]["label"] == "Yes"
            page.wait_for("the end of readiness", lambda: page.get("/readyz") == (503, "no_instance"))
            _says_no_instance(page)
        assert page.process.pid == pid
        assert page.process.poll() is None
        events = [line.split(" | ")[2] for line in page.log.splitlines() if " | ENGINE_" in line]
        assert events.count("ENGINE_UNUSABLE") == 3, "one line a change, not one a request"
        assert page.terminate() == 0


def _says_no_instance(page: Instance) -> None:
    assert page.get("/readyz") == (503, "no_instance")
    assert page.get("/livez")[0] == 200
    assert page.get("/startupz")[0] == 200
    status, health = page.get("/health")
    assert (status, json.loads(health)["details"]["model"]) == (503, "uninitialized")
    for _ in range(3):
        answer = judge(page, TEXTS[0])
        assert (answer.status_code, answer.json()["code"]) == (503, "no_instance")
        assert int(answer.headers["retry-after"]) > 0
    assert page.judge(PICTURE, TEXTS[0])["reason"] == "no_instance"
    status_line = httpx.get(f"{page.page}/status", timeout=PATIENCE).json()
    assert status_line["state"] == "no_instance"


def test_the_documented_command_guards_a_page(running_service: Instance, tmp_path: Path) -> None:
    """The ports and the folder of the document are those of this test instead."""
    (command,) = documented("OFA_RUN_DIR=front")
    run_dir, port, health_port, _, *arguments, _ = command.split()
    with Service(tmp_path / "front", plain=True) as front:
        assert {part.partition("=")[0] for part in (run_dir, port, health_port)} <= front.environment.keys()
        started = front.command(*arguments, running_service.page)
        assert started.returncode == 0, started.stdout
        wait_for("health", front.healthy, lambda: front.log)
        answer = httpx.post(
            f"{front.page}/v1/judge", data={"text": TEXTS}, files={"image": PICTURE}, timeout=PATIENCE
        )
        assert [one["label"] for one in answer.json()["results"]] == ["Yes", "No"]
        assert front.command("stop").returncode == 0

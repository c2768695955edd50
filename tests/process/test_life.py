"""The real process from start to exit: loading, serving, stopping."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lab.instances.hub import Hub
from lab.instances.instance import ROOT, START_SECONDS, Instance


@pytest.fixture
def held() -> Iterator[tuple[Hub, threading.Event]]:
    """A hub with the demo model that sends it only after the event."""
    go_on = threading.Event()
    demo = ROOT / "models" / "demo"
    with Hub() as hub:
        hub.repositories["owner/demo", "master"] = {
            path.name: path.read_bytes()
            for path in demo.iterdir()
            if path.suffix in (".json", ".txt", ".bin")
        }

        def hold() -> None:
            go_on.wait(START_SECONDS)

        hub.faults.before_list = hold
        try:
            yield hub, go_on
        finally:
            go_on.set()


def test_the_sidecar_is_loading_first_and_healthy_after_an_inference(
    start: Callable[..., Instance], held: tuple[Hub, threading.Event], tmp_path: Path
) -> None:
    hub, go_on = held
    places = {"MODELSCOPE_ENDPOINT": hub.endpoint, "MODELSCOPE_CACHE": str(tmp_path / "cache")}
    instance = start("--model", "owner/demo", environment=places)

    def told() -> tuple[int, str, str]:
        status, body = instance.get("/health")
        details = json.loads(body)["details"]
        return status, details["model"], details["inference"]

    instance.wait_for("an answer", lambda: instance.get("/livez")[0] == 200)
    assert instance.get("/startupz")[0] == 503
    assert instance.get("/readyz")[0] == 503
    assert plain(instance.get("/health/simple")) == (503, "FAIL")
    instance.wait_for("loading", lambda: told() == (503, "loading", "failed: not yet proven"))
    go_on.set()
    instance.wait_healthy()
    assert told() == (200, "loaded", "success")
    assert plain(instance.get("/health/simple")) == (200, "OK")
    assert [instance.get(path)[0] for path in ("/livez", "/readyz", "/startupz")] == [200, 200, 200]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_a_serving_process_cleanly(start: Callable[..., Instance], number: int) -> None:
    instance = start("--model", "demo")
    instance.wait_healthy()
    instance.process.send_signal(number)
    assert instance.exit_code() == 0
    assert "Traceback" not in instance.output
    _assert_nothing_is_left(instance)


def test_the_health_api_alone_serves_a_model_and_no_page(start: Callable[..., Instance]) -> None:
    instance = start("--model", "demo", program="health_api.py")
    instance.wait_healthy()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", instance.port)) != 0
    assert instance.terminate() == 0
    _assert_nothing_is_left(instance)


def test_a_signal_during_loading_stops_it_cleanly(start: Callable[..., Instance]) -> None:
    instance = start("--model", "demo")
    instance.wait_for("an answer", lambda: instance.get("/livez")[0] == 200)
    assert instance.terminate() == 0
    assert "Traceback" not in instance.output
    _assert_nothing_is_left(instance)


def test_requests_in_flight_are_answered_before_the_exit(
    start: Callable[..., Instance], red_circle: bytes
) -> None:
    instance = start(
        *("--model", "demo", "--timeout", "120", "--stop-grace", "120"),
        program="tests/process/slow.py",
        environment={"SLOW_SECONDS": "0.7"},
    )
    instance.wait_healthy()
    with ThreadPoolExecutor(3) as callers:
        calls = [callers.submit(instance.judge, red_circle, "there is a red circle") for _ in range(3)]
        instance.wait_for("all to be accepted", lambda: instance.log.count("REQUEST_START") >= 3)
        code = instance.terminate()
        answers = [call.result() for call in calls]
    assert code == 0
    assert [(answer["label"], answer["reason"]) for answer in answers] == [("Yes", None)] * 3
    _assert_nothing_is_left(instance)


def test_while_it_drains_it_serves_but_is_not_ready(
    start: Callable[..., Instance], red_circle: bytes
) -> None:
    instance = start("--model", "demo", "--drain-delay", "3600")
    instance.wait_healthy()
    assert instance.get("/readyz")[0] == 200
    instance.process.terminate()
    instance.wait_for("draining", lambda: plain(instance.get("/readyz")) == (503, "stopping"))
    assert instance.judge(red_circle, "there is a red circle")["label"] == "Yes"
    assert [instance.get(path)[0] for path in ("/livez", "/health/simple", "/startupz")] == [200, 200, 200]
    assert instance.terminate() == 0, "a second signal ends the delay"
    _assert_nothing_is_left(instance)


def plain(answer: tuple[int, str]) -> tuple[int, str]:
    """Return the answer as ``$(curl ...)`` does: without the final newline."""
    status, body = answer
    return status, body.rstrip("\n")


def _assert_nothing_is_left(instance: Instance) -> None:
    with pytest.raises(ProcessLookupError):  # it was the leader of its process group
        os.killpg(instance.process.pid, 0)
    for port in (instance.port, instance.health_port):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", port)) != 0

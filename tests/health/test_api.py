"""The health API over real HTTP."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from health_api import Sidecar
from service.build import build
from service.contract.causes import Refusal
from service.contract.status import Activity, Evidence, Phase, Progress, Snapshot
from service.health.report import Report, judge
from service.health.resources import Resources, Use
from service.listening import listen
from service.settings import Settings
from tests.fakes import PATIENCE, FakePredictor, Gate

SERVING = Snapshot(
    phase=Phase.LOADED,
    ready_seconds=1.0,
    activity=Activity(capacity=2),
    evidence=Evidence(proven_at=99.0),
)
LOADING = Snapshot(phase=Phase.LOADING, progress=Progress("reading the weights", 0, 0, 1, 3))


class Told:
    """An application whose state is set by the test."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot

    def report(self) -> Report:
        resources = Resources(at=100.0, memory=Use(1, 10), memory_by="host", disk=Use(1, 10))
        return judge(self.snapshot, resources, now=100.0, unix=1_795_000_000, evidence_ttl=90)

    def exposition(self) -> bytes:
        return b"told 1.0\n"


def get(port: int, path: str, method: str = "GET") -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers
    finally:
        connection.close()


@pytest.fixture
def application() -> Told:
    return Told(SERVING)


@pytest.fixture
def port(application: Told) -> Iterator[int]:
    sidecar = Sidecar(application, listen("127.0.0.1", 0, "--health-port"))
    sidecar.start()
    yield sidecar.port
    sidecar.stop()


def test_a_healthy_service_says_so_everywhere(port: int) -> None:
    status, body, headers = get(port, "/health")
    answer: dict[str, Any] = json.loads(body)
    assert (status, answer["status"], answer["timestamp"]) == (200, "healthy", 1_795_000_000)
    assert list(answer["details"]) == ["process", "gpu", "memory", "disk", "model", "inference"]
    assert headers["Content-Type"] == "application/json"
    assert headers["Cache-Control"] == "no-store"
    assert "Server" not in headers
    assert get(port, "/health/simple")[:2] == (200, "OK")
    for path in ("/livez", "/readyz", "/startupz"):
        assert get(port, path)[:2] == (200, "ok")


def test_a_loading_service_is_unhealthy_unready_starting_and_alive(port: int, application: Told) -> None:
    application.snapshot = LOADING
    status, body, _ = get(port, "/health")
    assert (status, json.loads(body)["status"]) == (503, "unhealthy")
    assert json.loads(body)["details"]["inference"] == "failed: not yet proven"
    assert get(port, "/health/simple")[:2] == (503, "FAIL")
    assert get(port, "/livez")[0] == 200
    status, body, headers = get(port, "/startupz")
    assert (status, body) == (503, "loading: reading the weights, attempt 1 of 3")
    assert headers["Retry-After"] == "5"
    assert get(port, "/readyz")[0] == 503


def test_a_full_queue_fails_readiness_with_the_seconds_to_wait_and_nothing_else(
    port: int, application: Told
) -> None:
    full = Activity(capacity=2, depth=2, refusal=Refusal.QUEUE_FULL, retry_after=7.0)
    application.snapshot = replace(SERVING, activity=full)
    status, body, headers = get(port, "/readyz")
    assert (status, body, headers["Retry-After"]) == (503, "queue_full", "7")
    assert [get(port, path)[0] for path in ("/livez", "/startupz", "/health", "/health/simple")] == [200] * 4


def test_only_what_is_beyond_help_fails_liveness(port: int, application: Told) -> None:
    application.snapshot = replace(SERVING, activity=Activity(alive=False))
    assert get(port, "/livez")[:2] == (503, "the engine thread has died")


def test_head_is_answered_and_other_paths_and_methods_are_not(port: int) -> None:
    assert get(port, "/health", "HEAD")[:2] == (200, "")
    assert get(port, "/nothing")[0] == 404
    assert "/health/simple" in get(port, "/")[1].splitlines()
    assert get(port, "/elsewhere")[0] == 404
    assert get(port, "/health", "POST")[0] == 405


def test_metrics_are_served_in_the_text_format(port: int) -> None:
    status, body, headers = get(port, "/metrics")
    assert (status, body) == (200, "told 1.0\n")
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"


def test_many_askers_at_once_are_all_answered(port: int) -> None:
    answers: list[int] = []

    def ask() -> None:
        for _ in range(10):
            answers.append(get(port, "/health/simple")[0])

    askers = [threading.Thread(target=ask) for _ in range(8)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join(PATIENCE)
    assert answers == [200] * 80


def test_a_stopped_sidecar_gives_its_port_back_even_with_a_connection_open() -> None:
    sidecar = Sidecar(Told(SERVING), listen("127.0.0.1", 0, "--health-port"))
    sidecar.start()
    idle = socket.create_connection(("127.0.0.1", sidecar.port), timeout=PATIENCE)
    get(sidecar.port, "/livez")
    sidecar.stop()
    with idle, socket.create_server(("127.0.0.1", sidecar.port)):
        assert idle.recv(1) == b""


def test_every_endpoint_answers_while_the_model_is_stuck(tmp_path: Path) -> None:
    gate = Gate(listens=False)
    model = FakePredictor(gate)
    settings = Settings(run_dir=tmp_path, probe_timeout=0.5, cancel_grace=0.05, hang_limit=0.05)
    application = build(settings, model=model, resolve=lambda name, **_: tmp_path)
    sidecar = Sidecar(application, listen("127.0.0.1", 0, "--health-port"))
    sidecar.start()
    try:
        application.supervisor.start()
        assert gate.entered.wait(PATIENCE)  # the first probe is inside, and stays there
        while get(sidecar.port, "/livez")[0] == 200:  # on its way to beyond help
            assert get(sidecar.port, "/health")[0] == 503
        assert get(sidecar.port, "/livez")[1].startswith("hung: ")
        give_up = time.monotonic() + PATIENCE
        while (answer := json.loads(get(sidecar.port, "/health")[1]))["details"]["inference"] != "timeout":
            assert time.monotonic() < give_up, answer  # the prober's own thread keeps what its probe showed
        assert answer["queue"]["orphaned"] is True
        assert answer["queue"]["totals"]["orphaned"] == 1
    finally:
        gate.opened.set()
        application.supervisor.stop(0.0)
        sidecar.stop()

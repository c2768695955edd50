"""OpenTelemetry spans: a real process sends them to a real collector, which decodes the protocol.

The extra is installed by pip into a folder of its own under build/, as the tests' environment has none of it.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lab.instances.instance import EXIT_SECONDS, ROOT, Instance
from lab.instances.ports import free_ports

SECONDS = 300.0  # a bound for a failing test on a busy machine
FOLDER = ROOT / "build" / "otel-site"
TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SECRET = "xylophonist"


@pytest.fixture(scope="session")
def extra() -> dict[str, str]:
    """Install requirements-otel.txt and return the environment in which it is found."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--target", str(FOLDER)]
    done = subprocess.run(
        [*pip, "-r", "requirements-otel.txt"], cwd=ROOT, capture_output=True, text=True, timeout=SECONDS
    )
    assert done.returncode == 0, done.stderr
    return {"PYTHONPATH": str(FOLDER)}


class Collector:
    """A running collector and the spans it has received."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self._lines = process.stdout
        self.port = int(self._lines.readline())
        self.spans: list[dict[str, Any]] = []
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def close(self) -> None:
        self._thread.join(SECONDS)

    def _read(self) -> None:
        for line in self._lines:
            self.spans.append(json.loads(line))


@contextmanager
def collector(extra: dict[str, str]) -> Iterator[Collector]:
    process = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("otlp_collector.py"))],
        env={**os.environ, **extra},
        stdout=subprocess.PIPE,
        text=True,
    )
    running = None
    try:
        running = Collector(process)
        yield running
    finally:
        process.kill()
        process.wait(EXIT_SECONDS)
        if running is not None:
            running.close()
        assert process.stdout is not None
        process.stdout.close()


def judge(instance: Instance, picture: bytes, **headers: str) -> int:
    """Judge two texts by the HTTP API. Returns the status."""
    call = {"image": base64.b64encode(picture).decode(), "text": [f"{SECRET} {n}" for n in range(2)]}
    connection = http.client.HTTPConnection("127.0.0.1", instance.port, timeout=SECONDS)
    connection.request("POST", "/v1/judge", json.dumps(call), {"Content-Type": "application/json", **headers})
    with connection.getresponse() as answer:
        answer.read()
        status = answer.status
    connection.close()
    return status


def facts(span: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in span.get("attributes", ())}


@pytest.mark.long
def test_a_request_is_a_span_with_its_stages_below_the_clients_span(
    start: Callable[..., Instance], extra: dict[str, str], red_circle: bytes
) -> None:
    with collector(extra) as received:
        service = start("--model", "demo", "--otlp-endpoint", received.endpoint, environment=extra)
        service.wait_healthy()
        traceparent = f"00-{TRACE}-{PARENT}-01"
        assert judge(service, red_circle, traceparent=traceparent, **{"X-Request-ID": "order-7"}) == 200
        assert judge(service, red_circle, traceparent=f"00-{TRACE[::-1]}-{PARENT}-00") == 200  # not sampled
        assert judge(service, b"not a picture") == 422
        service.wait_for("the spans", lambda: len(received.spans) >= 10)
        log = service.log
        assert service.terminate() == 0
    spans = [span for span in received.spans if span["trace_id"] == TRACE]
    roots = [span for span in spans if span["name"] == "request"]
    assert len(roots) == 2
    for root in roots:
        assert (root["parent_span_id"], root["kind"]) == (PARENT, "SPAN_KIND_SERVER")
        assert root["path"] == "/v1/traces"
        assert root["resource"]["service.name"] == "visual-entailment"
        told = facts(root)
        assert (told["ofa.client_id"], told["ofa.outcome"], told["ofa.source"]) == (
            "order-7",
            "answered",
            "api",
        )
        children = {span["name"]: span for span in spans if span["parent_span_id"] == root["span_id"]}
        assert set(children) == {"prepare", "queue", "compute"}
        order = [children[name] for name in ("prepare", "queue", "compute")]
        times = [int(one[at]) for one in order for at in ("startTimeUnixNano", "endTimeUnixNano")]
        assert times == sorted(times)
        assert int(root["startTimeUnixNano"]) <= times[0]
        assert times[-1] == int(root["endTimeUnixNano"])
        assert facts(children["compute"])["ofa.batch_size"] == "2"
        # The same ids in the log
        ids = f"| CLIENT_ID=order-7 | TRACE={TRACE}"
        lines = [line for line in log.splitlines() if told["ofa.request_id"] in line]
        assert len(lines) == 2
        assert all(line.endswith(ids) for line in lines)
    refused = [span for span in received.spans if facts(span).get("ofa.outcome") == "not_an_image"]
    assert len(refused) == 2
    assert all(span["status"]["code"] == "STATUS_CODE_ERROR" for span in refused)
    assert not any(span["parent_span_id"] for span in refused)
    assert TRACE[::-1] not in {span["trace_id"] for span in received.spans}
    assert len(received.spans) == 10  # and none of probes
    assert SECRET not in json.dumps(received.spans)


@pytest.mark.long
@pytest.mark.parametrize("listening", [False, True], ids=["gone", "silent"])
def test_a_collector_that_does_not_answer_costs_spans_and_nothing_else(
    listening: bool, start: Callable[..., Instance], extra: dict[str, str], red_circle: bytes
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if not listening:
            silent.close()
        port = silent.getsockname()[1] if listening else free_ports(1)[0]
        endpoint = f"http://127.0.0.1:{port}"
        service = start("--model", "demo", "--otlp-endpoint", endpoint, environment=extra)
        service.wait_healthy()
        assert [judge(service, red_circle) for _ in range(3)] == [200] * 3
        service.wait_for("the failure in the log", lambda: "LIBRARY | LOGGER=opentelemetry" in service.log)
        assert judge(service, red_circle) == 200
        assert service.terminate() == 0
    assert "BROKEN" not in service.log


def test_without_the_extra_the_setting_is_refused_with_its_exit_code(start: Callable[..., Instance]) -> None:
    service = start("--model", "demo", "--otlp-endpoint", "http://127.0.0.1:4318")
    assert service.process.wait(EXIT_SECONDS) == 78
    assert "requirements-otel.txt" in service.output

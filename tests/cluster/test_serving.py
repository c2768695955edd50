"""Requests to a real cluster."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from lab.instances.client import judge
from lab.instances.instance import Instance
from service.build import build
from service.settings import Settings
from tests.cluster.starting import FLAGS
from tests.exposition import Scraped

PICTURE = (Path(__file__).parents[2] / "models/demo/examples/existence.png").read_bytes()
TEXTS = ["there is a red circle", "there is no circle", "a cat", "the picture is empty"]


def get(cluster: Instance, path: str, method: str = "GET", **headers: str) -> tuple[int, Any, Message]:
    """Return status, body and headers."""
    request = urllib.request.Request(cluster.page + path, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, _content(answer.read()), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, _content(error.read()), error.headers


def _content(body: bytes) -> Any:
    try:
        return json.loads(body)
    except ValueError:
        return body.decode()


def test_verdicts_are_the_engine_s_own(cluster: Instance, tmp_path: Path) -> None:
    answers = [judge(cluster.port, PICTURE, *TEXTS) for _ in range(6)]  # of both replicas
    application = build(Settings.from_args([*FLAGS, "--run-dir", str(tmp_path)], {}))
    try:
        assert application.supervisor.load()
        own = [future.result(60) for future in application.submit_many(PICTURE, TEXTS)]
    finally:
        application.supervisor.stop(0)
    for answer in answers:
        assert answer.status == 200
        for result, verdict in zip(answer.body["results"], own, strict=True):
            assert result["label"] == verdict.label
            assert result["scores"] == pytest.approx(verdict.scores, abs=1e-3)


def test_the_whole_api_is_there(cluster: Instance) -> None:
    assert get(cluster, "/v1/model")[1]["model"] == "demo"
    assert get(cluster, "/v2/health/ready")[1] == {"ready": True}
    assert "/v1/judge" in get(cluster, "/openapi.json")[1]["paths"]
    assert get(cluster, "/elsewhere")[1]["code"] == "not_found"
    assert judge(cluster.port, b"no picture", "a cat").body["code"] == "not_an_image"


def test_batches_are_not_here(cluster: Instance) -> None:
    assert get(cluster, "/v1/batches", "POST")[1]["code"] == "not_here"
    assert get(cluster, "/v1/batches/1", "DELETE")[1]["code"] == "not_here"


def test_a_request_has_one_id(cluster: Instance) -> None:
    _, body, headers = get(cluster, "/elsewhere", **{"X-Request-ID": "an.id-1"})
    assert {body["request_id"], *headers.get_all("X-Request-ID")} == {"an.id-1"}
    _, body, headers = get(cluster, "/elsewhere")
    assert {body["request_id"]} == set(headers.get_all("X-Request-ID"))


def test_an_id_that_is_none_is_replaced(cluster: Instance) -> None:
    _, body, headers = get(cluster, "/elsewhere", **{"X-Request-ID": "no id!"})
    assert body["request_id"] == headers["X-Request-ID"] != "no id!"


def test_health_names_the_replicas(cluster: Instance) -> None:
    status, body, _ = get(cluster, "/health")
    assert (status, body["status"]) == (200, "healthy")
    assert sorted(one["name"] for one in body["replicas"]) == ["replica-0", "replica-1"]
    assert all(one["ready"] and one["healthy"] for one in body["replicas"])
    assert get(cluster, "/readyz")[0] == get(cluster, "/livez")[0] == 200


def test_prometheus_finds_the_health_api_of_each_replica(cluster: Instance) -> None:
    assert {one["labels"]["replica"] for one in get(cluster, "/targets")[1]} == {"replica-0", "replica-1"}
    assert all(scraped("ofa_healthy") == 1 for scraped in _metrics(cluster))


def test_a_client_that_leaves_cancels_the_computation(cluster: Instance) -> None:
    question = json.dumps({"image": base64.b64encode(PICTURE).decode(), "text": ["a red circle"] * 32})

    def leave() -> bool:
        connection = HTTPConnection("127.0.0.1", cluster.port)
        connection.request("POST", "/v1/judge", question, {"Content-Type": "application/json"})
        before = _abandoned(cluster)
        busy = [one["reason"] for one in get(cluster, "/health")[1]["replicas"]]
        assert busy
        connection.close()
        return _abandoned(cluster) > before

    cluster.wait_for("an abandoned request", leave, 60)


def _abandoned(cluster: Instance) -> float:
    return sum(one("ofa_requests_total", source="api", outcome="abandoned") for one in _metrics(cluster))


def _metrics(cluster: Instance) -> list[Scraped]:
    found = []
    for one in get(cluster, "/targets")[1]:
        with urllib.request.urlopen(f"http://{one['targets'][0]}/metrics", timeout=30) as answer:
            found.append(Scraped(answer.read().decode()))
    return found

"""deploy/haproxy and deploy/nginx with stand-in instances: the routes, what is repeated and what never is."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from batch.limits import BATCH_BYTES
from lab import ROOT
from lab.instances import balancers
from lab.instances.balancers import HAPROXY, NGINX, Balancer
from service.settings import Settings
from tests.deploy.stand_in_instance import RETRY_AFTER, StandIn
from tests.fakes import until
from tests.scaling import documented

JUDGE = "/v1/judge"
PICTURE = b"x" * 5_700_000  # a picture of 4.3 MB in base64
CALLS = 4
IDS = {number: f"{number:02x}{'a' * 30}" for number in (1, 2, 3, 7)}
MAX_BYTES = Settings().max_bytes


class Answer(NamedTuple):
    status: int
    body: Any
    headers: Message


class Front:
    """A balancer and the stand-ins behind it."""

    def __init__(self, balancer: Balancer, instances: list[StandIn]) -> None:
        self.balancer = balancer
        self.instances = instances

    def call(
        self, method: str, path: str, body: bytes = b"", address: str = "127.0.0.1", **headers: str
    ) -> Answer:
        connection = HTTPConnection("127.0.0.1", self.balancer.port, timeout=60, source_address=(address, 0))
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            connection.request(method, path, body or None, named)
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read()), response.headers)
        finally:
            connection.close()

    def judge(self, body: bytes = b"{}", **headers: str) -> Answer:
        return self.call("POST", JUDGE, body, **headers)

    def order(self, *orders: str) -> None:
        for instance, order in zip(self.instances, orders, strict=True):
            instance.order = order

    def hits(self) -> int:
        return sum(len(instance.hits) for instance in self.instances)


def fronts(folder: Path, kind: str, count: int) -> Iterator[Front]:
    with ExitStack() as stack:
        instances = [StandIn(number) for number in range(1, count + 1)]
        for instance in instances:
            stack.callback(instance.stop)
        run = balancers.haproxy if kind == "haproxy" else balancers.nginx
        balancer = stack.enter_context(run(folder, [instance.place for instance in instances]))
        if kind == "haproxy":
            balancer.wait_ready(*(str(instance.number) for instance in instances))
        yield Front(balancer, instances)


@pytest.fixture(params=["haproxy", "nginx"])
def front(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Front]:
    yield from fronts(tmp_path, request.param, 2)


@pytest.fixture
def haproxy(tmp_path: Path) -> Iterator[Front]:
    yield from fronts(tmp_path, "haproxy", 2)


@pytest.fixture(params=["haproxy", "nginx"])
def three(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Front]:
    yield from fronts(tmp_path, request.param, 3)


def test_haproxy_accepts_the_shipped_file_without_a_warning() -> None:
    (command,) = documented("haproxy -c")
    checked = subprocess.run(
        command.split(), cwd=ROOT, capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.returncode == 0, checked.stderr
    assert "WARNING" not in checked.stderr


def test_nginx_accepts_the_shipped_file(tmp_path: Path) -> None:
    command = balancers.nginx_command(tmp_path, f"include {NGINX};")
    checked = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False, timeout=60)
    assert checked.returncode == 0, checked.stderr
    assert "[warn]" not in checked.stderr


def test_limits_are_above_those_of_the_service() -> None:
    haproxy, nginx = HAPROXY.read_text(), NGINX.read_text()
    waits = re.findall(r"timeout server (\d+)s", haproxy) + re.findall(r"proxy_read_timeout (\d+)s", nginx)
    assert min(map(int, waits)) > Settings().timeout
    page, batch = (int(size) << 20 for size in re.findall(r"client_max_body_size (\d+)m", nginx))
    assert page > 4 * MAX_BYTES + (64 << 10)
    assert batch > BATCH_BYTES + (1 << 20)


def test_a_refusal_is_repeated_on_the_other_instance(front: Front) -> None:
    front.order("queue_full", "verdict")
    for _ in range(CALLS):
        answer = front.judge()
        assert (answer.status, answer.body) == (200, {"instance": 2})
    assert front.instances[0].hits


def test_the_second_refusal_reaches_the_caller_with_its_seconds(front: Front) -> None:
    front.order("queue_full", "queue_full")
    for call in range(1, CALLS + 1):
        answer = front.judge()
        assert (answer.status, answer.body["code"]) == (503, "queue_full")
        assert answer.headers["Retry-After"] == str(RETRY_AFTER)
        assert front.hits() == 2 * call


def test_a_caller_s_own_limit_is_not_evaded(front: Front) -> None:
    front.order("caller_limit", "caller_limit")
    answer = front.judge()
    assert (answer.status, answer.headers["Retry-After"]) == (429, str(RETRY_AFTER))
    assert front.hits() == 1


@pytest.mark.parametrize("body", [b"{}", PICTURE], ids=["small", "picture"])
def test_a_call_is_repeated_when_its_instance_dies(front: Front, body: bytes) -> None:
    front.order("dies", "verdict")
    for _ in range(CALLS):
        assert front.judge(body).body == {"instance": 2}
    assert front.instances[0].hits
    assert {hit.size for hit in front.instances[1].hits} == {len(body)}


def test_a_call_that_kills_its_instance_reaches_two_at_most(front: Front) -> None:
    front.order("dies", "dies")
    answer = front.judge()
    assert (answer.status in (502, 503), answer.body["code"]) == (True, "no_instance")
    assert "Retry-After" in answer.headers
    assert front.hits() == 2


def test_a_call_that_does_not_fit_into_the_buffer_is_not_repeated(haproxy: Front) -> None:
    haproxy.order("dies", "dies")
    assert haproxy.judge(b"x" * (9 << 20)).body["code"] == "no_instance"
    assert haproxy.hits() == 1


def test_an_instance_that_refuses_connections_costs_nothing(front: Front) -> None:
    front.instances[0].stop()
    assert [front.judge().body for _ in range(CALLS)] == [{"instance": 2}] * CALLS
    assert [front.call("GET", "/").body for _ in range(CALLS)] == [{"instance": 2}] * CALLS


@pytest.mark.parametrize(("method", "path"), [("POST", "/v1/batches"), ("DELETE", f"/v1/batches/{IDS[1]}")])
def test_what_changes_a_batch_is_never_repeated(front: Front, method: str, path: str) -> None:
    """Neither after an empty answer, since it may have been done, nor after a refusal."""
    for order in ("dies", "stopping"):
        before = front.hits()
        front.order(order, order)
        assert front.call(method, path, b"list").status in (502, 503)
        assert front.hits() == before + 1


def test_an_idempotency_key_leads_to_one_instance(haproxy: Front) -> None:
    def uploads(**headers: str) -> set[int]:
        return {haproxy.call("POST", "/v1/batches", b"list", **headers).body["instance"] for _ in range(6)}

    assert uploads() == {1, 2}
    assert [len(uploads(Idempotency_Key=f"key {number}")) for number in range(4)] == [1] * 4


def test_a_browser_uploads_a_batch_to_its_instance(haproxy: Front) -> None:
    for number in (1, 2):
        for _ in range(CALLS):
            answer = haproxy.call("POST", "/v1/batches", b"list", Cookie=f"instance={number}")
            assert answer.body == {"instance": number}


@pytest.mark.parametrize("rest", ["", "/results?format=csv", "/pictures/1"])
def test_a_batch_is_asked_where_it_is(three: Front, rest: str) -> None:
    for number in (1, 2, 3):
        for method in ("GET", "DELETE"):
            answer = three.call(method, f"/v1/batches/{IDS[number]}{rest}", Cookie="instance=1")
            assert answer.body == {"instance": number}
    assert three.call("GET", f"/v1/batches/{IDS[7]}").status == 200  # any instance answers 404


def test_the_file_is_widened_by_repeating_the_lines_of_instance_2(three: Front) -> None:
    assert {three.judge().body["instance"] for _ in range(9)} == {1, 2, 3}
    asked = [three.call("GET", "/", address=f"127.0.0.{last}").body["instance"] for last in range(2, 60)]
    assert set(asked) == {1, 2, 3}


def test_no_other_instance_is_asked_for_a_batch(front: Front, request: pytest.FixtureRequest) -> None:
    """HAProxy waits for the restart of its instance, nginx says at once that it cannot be reached."""
    first = front.instances[0]
    first.stop()
    returns = threading.Timer(1.5, first.start)
    returns.start()
    answer = front.call("GET", f"/v1/batches/{IDS[1]}")
    returns.join()
    if "nginx" in request.node.name:
        assert (answer.status, answer.body["code"]) == (503, "no_instance")
    else:
        assert answer.body == {"instance": 1}
    assert not front.instances[1].hits


def test_traffic_reaches_an_instance_when_none_is_ready(haproxy: Front) -> None:
    for instance in haproxy.instances:
        instance.is_ready = False
    haproxy.balancer.wait_ready()
    assert haproxy.judge().status == haproxy.call("GET", "/").status == 200
    haproxy.order("loading", "loading")
    assert haproxy.judge().body == {"code": "loading"}
    haproxy.instances[0].stop()
    haproxy.order("verdict", "verdict")
    assert [haproxy.judge().body for _ in range(CALLS)] == [{"instance": 2}] * CALLS


def test_only_ready_instances_get_new_callers(haproxy: Front) -> None:
    haproxy.instances[0].is_ready = False
    haproxy.balancer.wait_ready("2")
    pages = [haproxy.call("GET", "/", address=f"127.0.0.{last}").body for last in range(2, 30)]
    assert [*pages, *(haproxy.judge().body for _ in range(CALLS))] == [{"instance": 2}] * (28 + CALLS)


@pytest.mark.parametrize("end", ["gone", "loading"])
def test_a_browser_stays_until_its_instance_is_gone_or_loads(haproxy: Front, end: str) -> None:
    """It stays while its instance is not ready: its upload is there."""
    first = haproxy.call("GET", "/")
    (cookie,) = re.findall(r"^instance=\d", first.headers["Set-Cookie"])
    own = haproxy.instances[first.body["instance"] - 1]
    (other,) = (one for one in haproxy.instances if one is not own)

    def visited() -> set[int]:
        """Return the instances that the browser reaches, from any address."""
        return {
            haproxy.call("GET", "/", address=f"127.0.0.{last}", Cookie=cookie).body["instance"]
            for last in range(2, 30)
        }

    assert visited() == {own.number}
    own.is_ready = False
    haproxy.balancer.wait_ready(str(other.number))
    assert visited() == {own.number}
    if end == "gone":
        own.stop()
    else:
        own.is_started = False
        until(lambda: not haproxy.balancer.servers("page")[f"unready{own.number}"].up)
    assert visited() == {other.number}
    if end == "loading":  # all of them: the page says so
        other.is_started = other.is_ready = False
        haproxy.balancer.wait_ready()
        until(lambda: not haproxy.balancer.servers("page")[f"unready{other.number}"].up)
        assert haproxy.call("GET", "/", Cookie=cookie).status == 200


def test_a_program_without_cookies_stays_by_its_address(front: Front) -> None:
    for last in range(2, 12):
        asked = {front.call("GET", "/", address=f"127.0.0.{last}").body["instance"] for _ in range(CALLS)}
        assert len(asked) == 1


@pytest.mark.parametrize("path", [JUDGE, "/", "/v1/batches", f"/v1/batches/{IDS[1]}"])
def test_the_last_address_is_the_one_that_the_balancer_saw(front: Front, path: str) -> None:
    front.call("POST", path, b"x", address="127.0.0.2", X_Forwarded_For="10.1.1.1")
    (hit,) = (hit for instance in front.instances for hit in instance.hits)
    assert re.split(r", *", hit.forwarded_for) == ["10.1.1.1", "127.0.0.2"]


def test_one_address_cannot_hold_all_calls(haproxy: Front) -> None:
    with ExitStack() as held:
        for _ in range(97):
            held.enter_context(socket.create_connection(("127.0.0.1", haproxy.balancer.port)))
        refused = haproxy.judge()
        assert (refused.status, refused.body["code"]) == (429, "caller_limit")
        assert "Retry-After" in refused.headers
        assert haproxy.call("GET", "/").status == 200
        assert haproxy.judge(address="127.0.0.2").status == 200
    assert haproxy.hits() == 2


def test_calls_whose_bodies_arrive_slowly_are_bounded(haproxy: Front) -> None:
    """They wait in HAProxy's memory, and occupy no instance."""
    head = b"POST /v1/judge HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf"
    with ExitStack() as held:
        for number in range(128):
            source = (f"127.0.0.{2 + number % 2}", 0)
            address = ("127.0.0.1", haproxy.balancer.port)
            held.enter_context(socket.create_connection(address, source_address=source)).sendall(head)
        until(lambda: haproxy.judge().status == 503)
        refused = haproxy.judge()
        assert (refused.status, refused.body["code"]) == (503, "queue_full")
        assert "Retry-After" in refused.headers
        assert haproxy.call("GET", "/").status == 200
    assert not any(hit.size == 10 for instance in haproxy.instances for hit in instance.hits)

"""Two guarded instances behind the shipped HAProxy or nginx: what callers lose when an instance fails.

Prints the figures of docs/scaling.md: `make test-all ARGS="-k test_two_instances -rP"`.
"""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError

import pytest

from lab.faults.service import Service
from lab.faults.users import red_circle
from lab.instances import balancers
from lab.instances.balancers import Balancer
from lab.instances.client import judge
from lab.instances.guarded import wait_for
from lab.instances.instance import Instance
from lab.instances.load import CLIENTS, VERDICT, Load, large_picture
from tests.two_instances import DRAIN_SECONDS, places, two_instances

pytestmark = pytest.mark.long
SOME = 20  # calls before and after a fault
NGINX_TRIES = 4  # one call every five seconds tries an instance that has failed, for 20 s
LIST = b'{"image": "data:image/png;base64,%s", "text": "there is a red circle"}\n'


PICTURES = (red_circle(), large_picture())


@pytest.fixture(scope="module")
def instances(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Service]]:
    with two_instances(tmp_path_factory.mktemp("fleet")) as services:
        yield services


@pytest.fixture(scope="module")
def haproxy(instances: list[Service], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    with balancers.haproxy(tmp_path_factory.mktemp("haproxy"), places(instances)) as balancer:
        yield balancer


@pytest.fixture(scope="module")
def nginx(instances: list[Service], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Balancer]:
    with balancers.nginx(tmp_path_factory.mktemp("nginx"), places(instances)) as balancer:
        yield balancer


@pytest.fixture(params=["haproxy", "nginx"])
def front(request: pytest.FixtureRequest) -> Balancer:
    balancer: Balancer = request.getfixturevalue(request.param)
    return balancer


@pytest.fixture(autouse=True)
def both_ready(haproxy: Balancer, instances: list[Service]) -> None:
    """A test begins with two instances whose next failure is restarted at once."""
    haproxy.wait_ready("1", "2")
    for instance in instances:
        instance.wait_until_healthy()


def sent(number: int) -> Callable[[Service], None]:
    return lambda instance: os.kill(instance.pid, number)


def restarted(instance: Service) -> None:
    assert instance.command("restart").returncode == 0


@contextmanager
def fault(
    name: str, inject: Callable[[Service], None], instance: Service, haproxy: Balancer, load: Load
) -> Iterator[float]:
    """Inject a fault and wait until the instance serves again, under load; yield when HAProxy found it.

    Prints the figures.
    """
    load.more(SOME)
    pid, server = instance.pid, instance.run_dir.name
    began = time.monotonic()
    inject(instance)
    wait_for("HAProxy to find the fault", lambda: server not in haproxy.ready(), haproxy.servers)
    found = time.monotonic()
    yield found
    instance.wait_until_healthy(other_than=pid)
    haproxy.wait_ready("1", "2")
    healed = time.monotonic()
    load.more(SOME)
    print(
        f"{name}: found after {found - began:.1f} s, healed after {healed - began:.1f} s, "
        f"{len(load.calls)} calls, lost {[(call.result, call.size) for call in load.lost]}"
    )


@pytest.mark.parametrize(
    "inject", [sent(signal.SIGKILL), sent(signal.SIGTERM), restarted], ids=["KILL", "TERM", "restart"]
)
def test_no_call_is_lost_when_an_instance_ends(
    instances: list[Service],
    haproxy: Balancer,
    front: Balancer,
    inject: Callable[[Service], None],
    request: pytest.FixtureRequest,
) -> None:
    with Load(front.port, *PICTURES) as load:
        for instance in instances:  # one after the other: for `restart`, a rolling restart
            with fault(request.node.name, inject, instance, haproxy, load):
                pass
    assert not load.lost
    assert len({(call.size, call.label) for call in load.calls}) == len(PICTURES)


def test_no_call_through_a_page_in_front_is_lost_when_an_instance_ends(
    instances: list[Service], haproxy: Balancer, tmp_path: Path
) -> None:
    with Instance(tmp_path, "--engine", haproxy.page, "--ops", "off") as page:
        page.wait_healthy()
        with Load(page.port, *PICTURES) as load:
            for instance in instances:
                with fault("a page in front, KILL", sent(signal.SIGKILL), instance, haproxy, load):
                    pass
        assert not load.lost
        assert page.get("/health/simple")[0] == 200
        assert "ENGINE_UNUSABLE" not in page.log


def test_a_stopped_process_loses_only_what_was_in_flight(
    instances: list[Service],
    haproxy: Balancer,
    front: Balancer,
    request: pytest.FixtureRequest,
) -> None:
    """The guardian restarts it. nginx, which has no health check, may let a call try it now and then."""
    in_flight = 0

    def stop(instance: Service) -> None:
        nonlocal in_flight
        os.kill(instance.pid, signal.SIGSTOP)
        in_flight = load.in_flight

    with (
        Load(front.port, *PICTURES) as load,
        fault(request.node.name, stop, instances[0], haproxy, load) as found,
    ):
        load.more(SOME)
    assert in_flight <= CLIENTS
    assert len(load.lost) <= in_flight + (0 if front is haproxy else NGINX_TRIES)
    late = [call for call in load.lost if call.asked > found]
    assert not late or front is not haproxy


def test_calls_are_answered_while_no_instance_is_ready(instances: list[Service], haproxy: Balancer) -> None:
    """Both drain: each still answers, and HAProxy has no server that is ready."""
    pids = [instance.pid for instance in instances]
    with Load(haproxy.port, *PICTURES) as load:
        load.more(SOME)
        began = time.monotonic()
        for instance in instances:
            os.kill(instance.pid, signal.SIGTERM)
        haproxy.wait_ready()
        none_ready = time.monotonic()
        wait_for("the end of the drain", lambda: time.monotonic() > began + DRAIN_SECONDS - 1)
        drained = time.monotonic()
    meanwhile = [call.result for call in load.calls if call.asked > none_ready and call.ended < drained]
    assert set(meanwhile) == {VERDICT}
    for instance, pid in zip(instances, pids, strict=True):
        instance.wait_until_healthy(other_than=pid)


def get(front: Balancer, path: str) -> tuple[int, bytes]:
    try:
        with urllib.request.urlopen(front.page + path, timeout=60) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def test_a_batch_is_read_where_it_was_accepted(instances: list[Service], front: Balancer) -> None:
    """While its instance is being restarted it cannot be reached, but no other instance answers 404."""
    ids = {}
    for instance in instances:
        upload = urllib.request.Request(
            f"{instance.page}/v1/batches", LIST % b"AAAA", {"Content-Type": "application/x-ndjson"}
        )
        with urllib.request.urlopen(upload, timeout=60) as answer:
            ids[instance.run_dir.name] = json.load(answer)["id"]
    assert {batch[:2] for batch in ids.values()} == {"01", "02"}
    for batch in ids.values():
        for _ in range(4):
            assert get(front, f"/v1/batches/{batch}")[0] == 200
            assert get(front, f"/v1/batches/{batch}/results")[0] == 200
    pid = instances[0].pid
    os.kill(pid, signal.SIGKILL)
    seen = []
    while 200 not in seen:
        seen.append(get(front, f"/v1/batches/{ids['1']}")[0])
    assert set(seen) <= {200, 502, 503}
    instances[0].wait_until_healthy(other_than=pid)


def test_a_caller_keeps_its_own_limits(instances: list[Service], front: Balancer) -> None:
    """The instances count by the address that the balancer saw, not by one that the caller names."""
    assert judge(front.port, red_circle(), "there is a red circle", caller="10.1.1.1").status == 200
    assert not any("10.1.1.1" in instance.log for instance in instances)

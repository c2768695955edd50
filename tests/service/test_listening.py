"""Unavailable ports, descriptor limits, and which connections are closed at a limit."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from service.callers import Callers, networks
from service.contract.errors import PortTaken, SettingsError
from service.listening import Connections, Limits, Phase, Watch, listen
from tests.fakes import Clock

LIMITS = Limits(connections=8, first_byte=10, keep_alive=20, head=5, body=30, stall=15)


class Held:
    """A connection with a configurable phase."""

    def __init__(self, peer: str, now: float, phase: Phase = Phase.IDLE) -> None:
        self.watch = Watch(peer, now)
        self.is_in = phase
        self.left = 0
        self.closed = False

    def refresh(self, now: float) -> None:
        self.watch.update(self.is_in, self.left, now)

    def drop(self) -> None:
        self.closed = True


def test_a_taken_port_and_a_foreign_address_are_refused_by_code() -> None:
    with listen("127.0.0.1", 0, "--port") as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken) as caught:
            listen("127.0.0.1", port, "--port")
    assert (caught.value.code, caught.value.exit_code) == ("port_taken", 69)
    assert (caught.value.facts["port"], "--port" in caught.value.remedy) == (port, True)
    with pytest.raises(SettingsError) as elsewhere:
        listen("203.0.113.7", 0, "--health-port")
    assert elsewhere.value.exit_code == 78
    assert "--health-port" in elsewhere.value.remedy


def test_the_soft_limit_on_descriptors_is_raised_to_the_hard_one() -> None:
    script = """
import resource
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
from service import listening
print(listening.raise_descriptor_limit(), listening.page_limits().connections)
resource.setrlimit(resource.RLIMIT_NOFILE, (512, 512))
limits = listening.page_limits(), listening.health_limits()
print(listening.raise_descriptor_limit(), *(one.connections for one in limits))
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    high, low = (list(map(int, line.split())) for line in told.splitlines())
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert high[0] == min(hard, 65_536)
    assert low[0] == 512
    assert low[1] + low[2] <= 256, "half of the descriptors are left for all else"


def filled(connections: Connections, *held: Held) -> list[Held]:
    for one in held:
        assert connections.admit(one)
    return list(held)


def test_at_its_limit_a_caller_loses_only_its_own_oldest_idle_connection() -> None:
    clock = Clock()
    connections = Connections("page", LIMITS, clock=clock)
    (other,) = filled(connections, Held("192.0.2.1", clock.now))
    clock.now += 1
    first, second = filled(connections, Held("192.0.2.9", clock.now), Held("192.0.2.9", clock.now + 1))
    assert connections.admit(Held("192.0.2.9", clock.now + 2))
    assert [one.closed for one in (other, first, second)] == [False, True, False]
    assert (connections.count, connections.dropped["cap"]) == (3, 1)


def test_what_is_spared_least_goes_first_and_an_answer_in_progress_never() -> None:
    clock = Clock()
    connections = Connections("page", LIMITS, clock=clock)
    busy, body = filled(
        connections, Held("192.0.2.9", clock.now, Phase.BUSY), Held("192.0.2.9", clock.now, Phase.BODY)
    )
    head = Held("192.0.2.9", clock.now, Phase.HEAD)
    assert connections.admit(head)
    assert (body.closed, busy.closed) == (True, False)
    head.is_in = Phase.BUSY
    assert not connections.admit(Held("192.0.2.9", clock.now)), "nothing of this caller's can be spared"
    assert connections.dropped["refused"] == 1


def test_at_the_cap_of_all_the_caller_with_the_most_makes_room() -> None:
    clock = Clock()
    connections = Connections("page", LIMITS, clock=clock)
    peers = [f"192.0.2.{n}" for n in range(1, 7)]
    single = filled(connections, *(Held(peer, clock.now) for peer in peers))
    crowd = filled(connections, *(Held("192.0.2.99", clock.now + n) for n in (5, 6)))
    assert connections.admit(Held("198.51.100.1", clock.now))
    assert [one.closed for one in single] == [False] * 6
    assert [one.closed for one in crowd] == [True, False]


def test_a_trusted_proxy_is_exempt_from_the_per_caller_limit() -> None:
    connections = Connections("page", LIMITS, Callers(networks("10.0.0.0/8")), clock=Clock())
    held = filled(connections, *(Held("10.0.0.1", 0.0) for _ in range(8)))
    assert not any(one.closed for one in held)
    assert connections.admit(Held("10.0.0.1", 0.0))
    assert sum(one.closed for one in held) == 1


@pytest.mark.parametrize(
    ("phase", "limit"), [(Phase.IDLE, 10), (Phase.HEAD, 5), (Phase.BODY, 15), (Phase.BUSY, None)]
)
def test_each_phase_has_its_time(phase: Phase, limit: float | None) -> None:
    clock = Clock()
    connections = Connections("page", LIMITS, clock=clock)
    (one,) = filled(connections, Held("192.0.2.9", clock.now))
    one.is_in = phase
    connections.sweep()
    clock.now += (limit or 1e6) - 0.5
    connections.sweep()
    assert not one.closed
    clock.now += 1
    connections.sweep()
    assert one.closed is (limit is not None)
    assert connections.dropped["slow"] == (limit is not None)


def test_a_body_in_progress_has_a_longer_limit() -> None:
    clock = Clock()
    connections = Connections("page", LIMITS, clock=clock)
    (one,) = filled(connections, Held("192.0.2.9", clock.now, Phase.HEAD))
    connections.sweep()
    one.is_in = Phase.BODY
    for _ in range(6):
        assert not one.closed
        clock.now += 5.5
        one.watch.received(clock.now)
        connections.sweep()
    assert one.closed


def test_an_answer_that_is_not_taken_is_dropped_and_one_that_is_taken_slowly_is_not() -> None:
    clock = Clock()
    connections = Connections("page", LIMITS, clock=clock)
    slow, stuck = filled(connections, *(Held("192.0.2.9", clock.now, Phase.BUSY) for _ in range(2)))
    slow.left = stuck.left = 1000
    connections.sweep()
    for _ in range(4):
        clock.now += 5
        slow.left -= 1
        connections.sweep()
    assert (slow.closed, stuck.closed) == (False, True)


def test_a_kept_alive_connection_has_its_own_time() -> None:
    clock = Clock()
    connections = Connections("page", LIMITS, clock=clock)
    (one,) = filled(connections, Held("192.0.2.9", clock.now))
    for phase in (Phase.BUSY, Phase.IDLE):
        one.is_in = phase
        connections.sweep()
    clock.now += 19
    connections.sweep()
    assert not one.closed
    clock.now += 2
    connections.sweep()
    assert one.closed


def test_removing_twice_counts_once() -> None:
    connections = Connections("page", LIMITS, clock=Clock())
    (one,) = filled(connections, Held("192.0.2.9", 0.0))
    connections.remove(one)
    connections.remove(one)
    assert connections.count == 0
    filled(connections, Held("192.0.2.9", 0.0), Held("192.0.2.9", 0.0))
    assert connections.dropped["cap"] == 0

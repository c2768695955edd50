"""Which replicas get requests."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from cluster.readiness import SILENT_SECONDS, STALE_SECONDS, Watched
from cluster.routing import ReadyRouter
from tests.fakes import Clock


def report(watched: Watched, beat: int, **ready: bool) -> None:
    watched.update({name: {"ready": word, "beat": beat} for name, word in ready.items()})


def test_a_replica_that_is_not_ready_is_avoided(clock: Clock) -> None:
    watched = Watched(clock)
    report(watched, 1, a=True, b=False)
    assert watched.best(["a", "b"]) == ["a"]
    report(watched, 1, a=True, b=True)
    assert watched.best(["a", "b"]) == ["a", "b"]


def test_a_replica_without_a_report_is_new(clock: Clock) -> None:
    watched = Watched(clock)
    watched.update({"a": {}})
    assert watched.best(["a", "b"]) == ["a", "b"]


def test_a_replica_whose_reports_stay_the_same_is_avoided(clock: Clock) -> None:
    watched = Watched(clock)
    report(watched, 1, a=True, b=True)
    clock.move(STALE_SECONDS + 1)
    watched.update({"a": {"ready": True, "beat": 2}, "b": {"ready": True, "beat": 1}})
    assert watched.best(["a", "b"]) == ["a"]


def test_a_replica_that_does_not_take_a_request_is_avoided_until_it_responds(clock: Clock) -> None:
    watched = Watched(clock)
    report(watched, 1, a=True, b=True)
    watched.sent("b")
    assert watched.best(["a", "b"]) == ["a", "b"]
    clock.move(SILENT_SECONDS + 0.1)
    watched.sent("b")  # does not make the first one younger
    assert watched.best(["a", "b"]) == ["a"]
    watched.responded("b")
    assert watched.best(["a", "b"]) == ["a", "b"]


def test_with_none_ready_those_that_respond_are_asked_then_all(clock: Clock) -> None:
    watched = Watched(clock)
    report(watched, 1, a=False, b=False)
    watched.sent("b")
    clock.move(SILENT_SECONDS + 0.1)
    assert watched.best(["a", "b"]) == ["a"]
    clock.move(STALE_SECONDS)  # e.g. without Ray's controller
    assert watched.best(["a", "b"]) == ["a", "b"]


def test_a_removed_replica_is_forgotten(clock: Clock) -> None:
    watched = Watched(clock)
    report(watched, 1, a=True, b=True)
    report(watched, 2, b=True)
    clock.move(1)
    assert [(one.replica_id, one.age) for one in watched.reports()] == [("b", 1)]


@pytest.mark.parametrize("ready", [0, 1, 2, 5])
def test_the_router_offers_two_ready_replicas(ready: int) -> None:
    router = object.__new__(ReadyRouter)  # its base class needs a cluster
    router.initialize_state()
    replicas = [
        SimpleNamespace(replica_id=n, routing_stats={"ready": n < ready, "beat": 1}) for n in range(5)
    ]
    router.watched.update({one.replica_id: one.routing_stats for one in replicas})
    (chosen,) = asyncio.run(router.choose_replicas(replicas))
    assert len(set(map(id, chosen))) == (1 if ready == 1 else 2)
    assert all(one.replica_id < (ready or 5) for one in chosen)


def test_the_router_offers_nothing_without_replicas() -> None:
    router = object.__new__(ReadyRouter)
    router.initialize_state()
    assert asyncio.run(router.choose_replicas([])) == []

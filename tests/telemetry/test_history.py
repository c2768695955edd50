"""The last hour: what is kept, for how long, and that it is bounded."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from service.contract.errors import Busy, InputError, ServiceError
from service.contract.request import Pair, Request, RequestTiming, Source, Verdict
from service.contract.status import Activity, Evidence, Phase, Snapshot
from service.health.resources import Resources, Use
from service.telemetry.history import CHANGES, REQUESTS, SPAN, WINDOW, History, quantile
from tests.fakes import PATIENCE, PICTURE, YES, Clock

SECRET = "xylophonist"
FIGURES = Resources(0.0, Use(1, 2), "host", Use(1, 2), process_memory=640, gpu=Use(3, 8))
READY = Snapshot(phase=Phase.LOADED, device="cpu", evidence=Evidence(proven_at=990.0, proven_by="probe"))


class Service:
    """What the history looks at."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.now = READY
        self.history = History(
            *(lambda: self.now, lambda: FIGURES),
            evidence_ttl=90.0,
            clock=self.clock,
            unix=lambda: self.clock.now + 1e9,
        )

    def end(self, verdict: Verdict, source: Source = "api") -> None:
        self.history.ended(asked(source), verdict, RequestTiming(waited=0.25))

    def refuse(self, error: ServiceError, source: Source = "page") -> None:
        self.history.refused(asked(source), error, 0.02)


def asked(source: Source) -> Request:
    return Request("req_1_ab", Pair(PICTURE, SECRET), 1.0, 2.0, source, size=(640, 480))


@pytest.fixture
def service() -> Service:
    return Service()


def answer(seconds: float) -> Verdict:
    return Verdict.of(YES, duration=seconds, device="cpu", request_id="req_1_ab")


def test_a_request_is_kept_with_all_but_its_text(service: Service) -> None:
    service.end(answer(0.5))
    (kept,) = service.history.requests()
    assert (kept.id, kept.source, kept.outcome, kept.label) == ("req_1_ab", "api", "answered", "Yes")
    assert (kept.seconds, kept.size, kept.chars) == (0.5, (640, 480), len(SECRET))
    assert SECRET not in repr(kept)


def test_the_newest_requests_come_first_and_the_oldest_are_forgotten(service: Service) -> None:
    for number in range(REQUESTS + 10):
        service.end(answer(float(number)))
    kept = [one.seconds for one in service.history.requests()]
    assert kept == [float(number) for number in range(REQUESTS + 9, 9, -1)]


def test_no_verdict_is_kept_with_its_reason_and_no_label(service: Service) -> None:
    service.end(Verdict.none("timeout", duration=15.0))
    (kept,) = service.history.requests()
    assert (kept.outcome, kept.label, kept.seconds) == ("timeout", "", 15.0)


def test_one_that_was_refused_is_kept_with_all_that_is_known_but_its_text(service: Service) -> None:
    service.refuse(InputError("too large", code="image_too_large"))
    (kept,) = service.history.requests()
    assert (kept.id, kept.source, kept.outcome, kept.label) == ("req_1_ab", "page", "image_too_large", "")
    assert (kept.seconds, kept.size, kept.chars) == (0.02, (640, 480), len(SECRET))
    assert SECRET not in repr(kept)


@pytest.mark.parametrize("source", ["probe", "batch"])
def test_probes_and_background_rows_are_no_requests(source: Source, service: Service) -> None:
    service.end(answer(0.5), source=source)
    service.refuse(Busy("full", retry_after=1.0), source=source)
    service.history.sample()
    (sample,) = service.history.samples()
    assert service.history.requests() == []
    assert (sample.ended, sample.failed, sample.p95) == (0, 0, None)


def test_a_sample_tells_latency_counts_and_figures_of_its_moment(service: Service) -> None:
    service.now = replace(READY, activity=Activity(depth=3))
    for seconds in (0.4, 0.1, 0.2, 0.3):
        service.end(answer(seconds))
    service.end(Verdict.none("timeout", duration=15.0))
    service.refuse(Busy("full", retry_after=1.0))
    service.refuse(InputError("no picture", code="no_image"))
    service.history.sample()
    (sample,) = service.history.samples()
    assert (sample.p50, sample.p95) == (0.2, 0.4)
    assert (sample.ended, sample.failed) == (7, 2), "what nobody could judge is no failure"
    assert (sample.depth, sample.process_memory, sample.gpu_memory) == (3, 640, 3)
    assert sample.evidence_age == 10.0
    service.history.sample()
    assert service.history.samples()[-1].ended == 0, "counted once"


def test_latency_is_that_of_the_last_minute(service: Service) -> None:
    service.end(answer(9.0))
    service.clock.move(WINDOW + 1)
    service.end(answer(1.0))
    service.history.sample()
    assert service.history.samples()[-1].p95 == 1.0
    service.clock.move(WINDOW + 1)
    service.history.sample()
    assert service.history.samples()[-1].p95 is None


def test_an_hour_is_kept_and_no_more(service: Service) -> None:
    for _ in range(1000):
        service.history.sample()
        service.clock.move(5.0)
    samples = service.history.samples()
    assert len(samples) == SPAN / 5
    service.clock.move(SPAN)
    assert service.history.samples() == [], "after a pause the old ones are not shown as if they were new"


def test_only_changes_of_state_are_changes(service: Service) -> None:
    for _ in range(3):
        service.history.sample()
        service.clock.move(5.0)
    service.now = replace(READY, degraded="computing on the CPU")
    service.history.sample()
    newest, first = service.history.changes()
    assert (first.state.phase, first.state.inference, first.state.degraded) == ("loaded", "success", False)
    assert newest.state.degraded
    for number in range(2 * CHANGES):
        service.now = replace(READY, device=f"cuda:{number}")
        service.history.sample()
    assert len(service.history.changes()) == CHANGES


def test_its_thread_looks_by_itself_and_survives_a_look_that_fails() -> None:
    looked = threading.Event()
    calls: list[int] = []

    def snapshot() -> Snapshot:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("not yet")
        if len(calls) > 2:
            looked.set()
        return READY

    history = History(snapshot, lambda: FIGURES, evidence_ttl=90.0, period=0.01)
    history.start()
    assert looked.wait(PATIENCE)
    history.stop()
    assert history.samples()


def test_one_that_is_stopped_before_it_was_started_never_looks(service: Service) -> None:
    service.history.stop()
    service.history.start()  # too late: a stop may overtake a start
    service.history.stop(PATIENCE)
    assert service.history.samples() == []


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([], 0.5, None),
        ([7.0], 0.95, 7.0),
        ([1.0, 2.0], 0.5, 1.0),
        ([float(n) for n in range(1, 101)], 0.95, 95.0),
    ],
)
def test_a_quantile_is_a_value_that_was_seen(
    values: list[float], share: float, expected: float | None
) -> None:
    assert quantile(values, share) == expected

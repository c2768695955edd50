"""Scheduling and results of probes, with a manual clock."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from service.contract.errors import NotFinite, OutOfMemory
from service.contract.request import Verdict
from service.health.prober import RETRY, Prober
from tests.fakes import PATIENCE, YES, Clock


class Model:
    """Answers probes as configured."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.takes = 0.5
        self.answer: Callable[[], Verdict] = self.verdict

    def verdict(self, label: str = "Yes", device: str = "cpu", dtype: str = "fp32") -> Verdict:
        return Verdict(label, 0.9, YES, device=device, dtype=dtype)

    def __call__(self) -> Future[Verdict]:
        self.clock.move(self.takes)
        future: Future[Verdict] = Future()
        future.set_result(self.answer())
        return future


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def model(clock: Clock) -> Model:
    return Model(clock)


@pytest.fixture
def prober(model: Model, clock: Clock) -> Prober:
    prober = Prober(model, interval=60, baseline_interval=300, timeout=15, clock=clock)
    prober.enable()
    return prober


def test_nothing_is_probed_before_a_model_is_loaded_or_after_it_went(model: Model, clock: Clock) -> None:
    prober = Prober(model, interval=60, baseline_interval=300, timeout=15, clock=clock)
    assert prober.due_in(clock.now) is None
    prober.enable()
    assert prober.due_in(clock.now) == 0.0
    prober.disable()
    assert prober.due_in(clock.now) is None


def test_a_probe_proves_the_model_and_the_next_is_due_an_interval_later(prober: Prober, clock: Clock) -> None:
    prober.probe()
    known = prober.evidence()
    assert (known.proven_at, known.proven_by, known.label, known.probes) == (clock.now, "probe", "Yes", 1)
    assert known.probe_seconds == 0.5
    assert prober.due_in(clock.now) == 60
    clock.move(61)
    assert prober.due_in(clock.now) == 0.0


def test_a_users_answer_puts_the_probe_off(prober: Prober, clock: Clock) -> None:
    prober.probe()
    clock.move(50)
    prober.inference_succeeded(clock.now)
    assert prober.evidence().proven_by == "user"
    assert prober.due_in(clock.now) == 60


def test_under_traffic_a_golden_probe_runs_all_the_same(prober: Prober, clock: Clock) -> None:
    prober.probe()
    for _ in range(29):
        clock.move(10)
        prober.inference_succeeded(clock.now)
        assert prober.due_in(clock.now) != 0.0
    clock.move(10)
    prober.inference_succeeded(clock.now)
    assert prober.due_in(clock.now) == 0.0


def test_a_probe_that_is_asked_for_runs_at_once_and_once(prober: Prober, clock: Clock) -> None:
    prober.probe()
    assert prober.ask_now()
    assert prober.due_in(clock.now) == 0.0
    prober.probe()
    assert prober.due_in(clock.now) == 60


def test_no_probe_can_be_asked_for_without_a_model(prober: Prober, clock: Clock) -> None:
    prober.probe()
    prober.disable()
    assert not prober.ask_now()
    prober.enable()
    prober.probe()
    assert prober.due_in(clock.now) == 60


def test_one_probe_runs_at_a_time(prober: Prober, model: Model, clock: Clock) -> None:
    seen: list[float | None] = []

    def look() -> Verdict:
        seen.append(prober.due_in(clock.now))
        assert prober.evidence().probe_running
        return model.verdict()

    model.answer = look
    prober.probe()
    assert seen == [None]
    assert not prober.evidence().probe_running


def test_another_label_is_unstable_until_a_probe_gives_the_right_one(
    prober: Prober, model: Model, clock: Clock
) -> None:
    prober.probe()
    model.answer = lambda: model.verdict("No")
    clock.move(300)
    prober.probe()
    prober.probe()
    assert prober.evidence().unstable == 2
    prober.inference_succeeded(clock.now)  # a user's answer does not end it
    assert prober.evidence().unstable == 2
    assert prober.due_in(clock.now) == RETRY
    model.answer = model.verdict
    prober.probe()
    assert (prober.evidence().unstable, prober.evidence().label) == (0, "Yes")


def test_labels_are_kept_apart_by_device_and_dtype(prober: Prober, model: Model) -> None:
    prober.probe()
    model.answer = lambda: model.verdict("No", device="cuda:0")
    prober.probe()
    assert prober.evidence().unstable == 0
    model.answer = lambda: model.verdict("Maybe", dtype="bf16")
    prober.probe()
    assert prober.evidence().unstable == 0
    model.answer = lambda: model.verdict("Maybe", device="cuda:0")
    prober.probe()
    assert prober.evidence().unstable == 1


def test_the_golden_label_outlives_a_reload(prober: Prober, model: Model) -> None:
    prober.probe()
    prober.enable()
    assert prober.evidence().proven_at is None
    model.answer = lambda: model.verdict("No")
    prober.probe()
    assert prober.evidence().unstable == 1


def test_scores_that_are_not_finite_are_unstable(prober: Prober, model: Model) -> None:
    model.answer = lambda: Verdict.none("error", error=NotFinite("The scores are not finite."))
    prober.probe()
    assert prober.evidence().unstable == 1
    assert prober.evidence().proven_at is None


def test_a_failed_probe_says_what_failed_and_is_tried_again_soon(
    prober: Prober, model: Model, clock: Clock
) -> None:
    model.answer = lambda: Verdict.none("error", error=OutOfMemory("The GPU's memory is full."))
    prober.probe()
    failure = prober.evidence().standing_failure
    assert failure is not None
    assert failure.word == "failed: The GPU's memory is full."
    assert prober.due_in(clock.now) == RETRY
    model.answer = model.verdict
    prober.probe()
    assert prober.evidence().standing_failure is None


def test_a_probe_over_its_limit_is_a_timeout_that_a_users_answer_since_its_start_refutes(
    prober: Prober, model: Model, clock: Clock
) -> None:
    model.answer = lambda: Verdict.none("timeout")
    prober.probe()
    failure = prober.evidence().standing_failure
    assert failure is not None
    assert failure.word == "timeout"

    def slow() -> Verdict:
        prober.inference_succeeded(clock.now)  # the request before it took long, and was answered
        return Verdict.none("timeout")

    model.answer = slow
    prober.probe()
    assert prober.evidence().standing_failure is None


@pytest.mark.parametrize("reason", ["busy", "stopping", "loading"])
def test_a_probe_that_was_not_run_shows_nothing(
    reason: str, prober: Prober, model: Model, clock: Clock
) -> None:
    prober.probe()
    before = prober.evidence()
    model.answer = lambda: Verdict.none(reason)
    prober.probe()
    after = prober.evidence()
    assert (after.proven_at, after.failure, after.unstable) == (before.proven_at, None, 0)


@pytest.mark.parametrize("reason", ["busy", "loading", "stopping"])
def test_a_refused_probe_is_tried_again_after_a_pause(
    prober: Prober, model: Model, clock: Clock, reason: str
) -> None:
    """Also when the last evidence is old: otherwise one would follow the other without a pause."""
    prober.probe()
    clock.move(1000)
    model.answer = lambda: Verdict.none(reason)
    prober.probe()
    assert prober.due_in(clock.now) == RETRY


def test_an_engine_that_is_not_reached_is_a_failure_with_one_line(
    prober: Prober, model: Model, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    prober.probe()
    clock.move(1)
    model.answer = lambda: Verdict.none("no_instance")
    for _ in range(3):
        prober.probe()
    assert len([line for line in caplog.messages if "OUTCOME=no_instance" in line]) == 1
    assert prober.evidence().standing_failure is not None
    model.answer = model.verdict
    prober.probe()
    assert prober.evidence().standing_failure is None


def test_probes_of_several_models_are_not_compared(model: Model, clock: Clock) -> None:
    prober = Prober(model, interval=60, baseline_interval=300, timeout=15, one_model=False, clock=clock)
    prober.enable()
    for label in ("Yes", "No", "Maybe"):
        model.answer = lambda label=label: model.verdict(label)  # type: ignore[misc]
        prober.probe()
        assert (prober.evidence().label, prober.evidence().unstable) == (label, 0)


def test_a_probe_that_cannot_even_be_asked_is_a_failed_one(prober: Prober, model: Model) -> None:
    def stumble() -> Verdict:
        raise KeyError("secret")

    model.answer = stumble
    prober.probe()
    failure = prober.evidence().standing_failure
    assert failure is not None
    assert failure.word == "failed: KeyError in the probe"


def test_the_thread_probes_and_stops(model: Model) -> None:
    probed = threading.Event()

    def answer() -> Verdict:
        probed.set()
        return model.verdict()

    model.answer = answer
    prober = Prober(model, interval=60, baseline_interval=300, timeout=15)
    prober.start()
    assert not probed.is_set()
    prober.enable()
    assert probed.wait(PATIENCE)
    prober.stop(PATIENCE)
    assert not prober._thread.is_alive()

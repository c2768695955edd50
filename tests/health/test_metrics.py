"""What is counted, over a fake model: every kind of end, the memory fallback, what the guardian wrote."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

from service.build import Application
from service.contract.causes import RestartCause
from service.contract.errors import DamagedFile, HubUnavailable, InputError
from service.settings import Settings
from service.telemetry.gauges import CHECKS, RESTARTS_FILE, read_restarts
from service.telemetry.metrics import DURATIONS, RUNGS
from tests.applications import Build, Hub
from tests.exposition import Scraped
from tests.fakes import NO, PATIENCE, PICTURE, YES, FakeGpuModel, FakePredictor, Gate, until


def scrape(application: Application) -> Scraped:
    return Scraped(application.exposition().decode())


def until_told(application: Application, count: float, name: str, **labels: str) -> Scraped:
    """The scrape in which a count is reached: a caller has its answer a moment before it is counted."""
    until(lambda: scrape(application)(name, **labels) >= count)
    return scrape(application)


def test_every_series_that_can_rise_is_there_before_anything_happened(make: Build) -> None:
    told = scrape(make())
    for name, labels in {
        "ofa_requests_total": {"source": "page", "outcome": "answered"},
        "ofa_request_duration_seconds_count": {"source": "api"},
        "ofa_request_stage_duration_seconds_count": {"stage": "queue"},
        "ofa_timeouts_total": {"stage": "computing"},
        "ofa_rejections_total": {"reason": "queue_full"},
        "ofa_out_of_memory_events_total": {"next": "CPU"},
        "ofa_fallback_transitions_total": {"to": "cpu"},
        "ofa_model_load_attempts_total": {"outcome": "download_interrupted"},
        "ofa_probes_total": {"outcome": "unstable"},
        "ofa_restarts_total": {"cause": "hung"},
        "ofa_orphanings_total": {},
        "ofa_preemptions_total": {},
        "ofa_precision_guard_recomputed_total": {"format": "fp32"},
    }.items():
        assert told(name, **labels) == 0
    assert not told.has("ofa_last_success_timestamp_seconds")  # 0 would be a time: 1970
    assert not [name for name, _ in told.samples if name.endswith("_created")]


def test_the_deadline_is_an_edge_of_the_durations() -> None:
    assert Settings.timeout in DURATIONS


def test_an_answered_request_is_counted_by_source_label_and_stage(make: Build) -> None:
    application = make(FakePredictor(lambda pairs, cancel: [NO for _ in pairs]))
    application.supervisor.load()
    application.submit(PICTURE, "a red", source="page").result(PATIENCE)
    told = until_told(application, 1, "ofa_requests_total", source="page", outcome="answered")
    assert told("ofa_verdicts_total", label="No") == 1
    assert told("ofa_request_duration_seconds_count", source="page") == 1
    for stage in ("prepare", "queue", "compute"):
        assert told("ofa_request_stage_duration_seconds_count", stage=stage) == 1
    assert told("ofa_batch_size_requests_sum") == told("ofa_batch_size_requests_count") == 1
    assert told("ofa_model_load_attempts_total", outcome="loaded") == 1


def test_probes_do_not_count_as_users(make: Build) -> None:
    application = make()
    application.supervisor.load()
    told = until_told(application, 1, "ofa_probes_total", outcome="success")
    assert told("ofa_probe_duration_seconds_count") >= 1
    until_told(application, 1, "ofa_requests_total", source="probe", outcome="answered")
    assert told("ofa_batch_size_requests_count") == 0
    assert told("ofa_request_stage_duration_seconds_count", stage="compute") == 0
    assert 0 <= told("ofa_evidence_age_seconds") < PATIENCE
    assert abs(told("ofa_last_success_timestamp_seconds") - time.time()) < PATIENCE


def test_background_rows_are_counted_apart(make: Build) -> None:
    gate = Gate()
    application = make(FakePredictor(gate), timeout=600, probe_timeout=600)
    application.submit_many(PICTURE, ["refused"], source="batch")
    application.supervisor.load()
    gate.opened.set()
    until_told(application, 1, "ofa_requests_total", source="probe", outcome="answered")
    gate.opened.clear()
    gate.entered.clear()
    rows = application.submit_many(PICTURE, [f"row {n}" for n in range(6)], source="batch")
    assert gate.entered.wait(PATIENCE)
    until(lambda: scrape(application)("ofa_background_depth_requests") == 2)  # four are computed
    user = application.submit(PICTURE, "a red")
    told = until_told(application, 4, "ofa_preemptions_total")
    assert told("ofa_queue_depth_requests") == 0
    gate.opened.set()
    for future in (user, *rows):
        assert future.result(PATIENCE).reason is None
    told = until_told(application, 6, "ofa_requests_total", source="batch", outcome="answered")
    assert told("ofa_requests_total", source="batch", outcome="rejected") == 1
    assert told("ofa_requests_total", source="api", outcome="answered") == 1
    assert told("ofa_rejections_total", reason="loading") == 0
    assert told("ofa_verdicts_total", label="Yes") == 1
    assert told("ofa_batch_size_requests_count") == 1
    for stage in ("prepare", "queue", "compute"):
        assert told("ofa_request_stage_duration_seconds_count", stage=stage) == 1
    with pytest.raises(KeyError):
        told("ofa_request_duration_seconds_count", source="batch")


def test_what_was_turned_away_is_counted_by_reason_and_what_cannot_be_judged_apart(make: Build) -> None:
    application = make()
    application.submit(PICTURE, "a red", source="page").result(PATIENCE)
    application.supervisor.load()
    with pytest.raises(InputError):
        application.submit(None, "a red")
    told = scrape(application)
    assert told("ofa_requests_total", source="page", outcome="rejected") == 1
    assert told("ofa_rejections_total", reason="loading") == 1
    assert told("ofa_requests_total", source="api", outcome="invalid") == 1
    assert told("ofa_rejections_total", reason="no_image") == 1


def test_a_full_queue_is_a_depth_and_a_rejection(make: Build) -> None:
    gate = Gate()
    application = make(FakePredictor(gate), queue_size=1, timeout=600, probe_timeout=600)
    try:
        application.supervisor.load()
        assert gate.entered.wait(PATIENCE)  # the probe is inside, and stays there
        application.submit(PICTURE, "one")
        assert application.submit(PICTURE, "two").result(PATIENCE).reason == "busy"
        told = scrape(application)
        assert (told("ofa_queue_depth_requests"), told("ofa_queue_capacity_requests")) == (1, 1)
        assert told("ofa_rejections_total", reason="queue_full") == 1
    finally:
        gate.opened.set()


def test_a_timeout_is_counted_by_where_the_request_was(make: Build) -> None:
    gate = Gate()
    application = make(FakePredictor(gate), timeout=0.05, probe_timeout=600)
    try:
        application.supervisor.load()
        assert gate.entered.wait(PATIENCE)
        assert application.submit(PICTURE, "one").result(PATIENCE).reason == "timeout"
        told = until_told(application, 1, "ofa_requests_total", source="api", outcome="timeout")
        until_told(application, 1, "ofa_timeouts_total", stage="waiting")
        assert told("ofa_request_stage_duration_seconds_count", stage="compute") == 0
    finally:
        gate.opened.set()


def test_a_computation_that_does_not_stop_is_a_gauge_and_a_count(make: Build) -> None:
    gate = Gate(listens=False)
    application = make(FakePredictor(gate), probe_timeout=0.05, cancel_grace=0.01, hang_limit=600)
    try:
        application.supervisor.load()
        told = until_told(application, 1, "ofa_orphanings_total")
        assert told("ofa_orphaned_inferences") == 1
        assert told("ofa_computation_age_seconds") > 0
        assert told("ofa_ready") == 0
        assert until_told(application, 1, "ofa_probes_total", outcome="timeout")
    finally:
        gate.opened.set()
    until(lambda: scrape(application)("ofa_orphaned_inferences") == 0)


def test_gpu_out_of_memory_is_counted_by_step_and_so_is_the_return(make: Build) -> None:
    room = {"gpu": False}
    application = make(
        FakeGpuModel(lambda device, size: device == "cpu" or room["gpu"]),
        retry_gpu_pause=0.05,
        probe_interval=600,
    )
    application.supervisor.load()
    told = until_told(application, 1, "ofa_fallback_transitions_total", to="cpu")
    assert told("ofa_out_of_memory_events_total", next="cache emptied") >= 1
    assert told("ofa_out_of_memory_events_total", next="CPU") >= 1
    assert {name for name in told.label_values() if name in RUNGS} == set(RUNGS)
    until(lambda: scrape(application)("ofa_fallback_active") == 1)
    room["gpu"] = True
    until_told(application, 1, "ofa_fallback_transitions_total", to="gpu")
    until(lambda: scrape(application)("ofa_fallback_active") == 0)


def test_attempts_to_load_are_counted_by_what_went_wrong(make: Build) -> None:
    application = make(hub=Hub(HubUnavailable("No answer."), DamagedFile("Its size is wrong.")))
    assert application.supervisor.load()
    told = scrape(application)
    for outcome in ("hub_unavailable", "damaged_file", "loaded"):
        assert told("ofa_model_load_attempts_total", outcome=outcome) == 1


def test_each_health_check_has_exactly_one_state(make: Build) -> None:
    application = make(FakePredictor(lambda pairs, cancel: 1 / 0))  # type: ignore[arg-type, return-value]
    application.supervisor.load()
    until(lambda: application.report().details["inference"].startswith("failed: Unexpected"))
    told = scrape(application)
    assert told("ofa_health_check_status", check="inference", status="failed") == 1
    assert (told("ofa_healthy"), told("ofa_live")) == (0, 1)
    for check, words in CHECKS.items():
        assert sum(told("ofa_health_check_status", check=check, status=word) for word in words) == 1


def test_the_precision_guard_is_read_where_the_model_has_one(make: Build) -> None:
    model = FakePredictor()
    model.guard_counts = lambda: (7, {"bf16": 3, "fp32": 2})  # type: ignore[attr-defined]
    told = scrape(make(model))
    assert told("ofa_precision_guard_judged_total") == 7
    assert told("ofa_precision_guard_recomputed_total", format="bf16") == 3
    assert told("ofa_precision_guard_recomputed_total", format="fp32") == 2


def test_restarts_are_what_the_guardian_wrote(make: Build, tmp_path: Path) -> None:
    application = make()
    (tmp_path / RESTARTS_FILE).write_text("hung 2\nsignal 11\n")
    told = scrape(application)
    assert told("ofa_restarts_total", cause="hung") == 2
    assert told("ofa_restarts_total", cause="signal") == 11
    assert sum(told("ofa_restarts_total", cause=cause) for cause in RestartCause) == 13


@pytest.mark.parametrize("written", [b"", b"hung\n", b"hung x\n", b"hung 1e9\n", b"hung -1\n", b"\xff 1\n"])
def test_a_damaged_line_of_the_guardians_counts_nothing(written: bytes, tmp_path: Path) -> None:
    (tmp_path / RESTARTS_FILE).write_bytes(written)
    assert sum(read_restarts(tmp_path / RESTARTS_FILE).values()) == 0


def test_an_unknown_cause_adds_no_series(tmp_path: Path) -> None:
    (tmp_path / RESTARTS_FILE).write_text("sunspots 3\nweather 1\n")
    assert read_restarts(tmp_path / RESTARTS_FILE) == {"other": 4}


def test_two_applications_in_one_process_count_apart(make: Build) -> None:
    first, second = make(), make()
    first.supervisor.load()
    first.submit(PICTURE, "a red").result(PATIENCE)
    until_told(first, 1, "ofa_requests_total", source="api", outcome="answered")
    assert scrape(second)("ofa_requests_total", source="api", outcome="answered") == 0


def test_no_users_text_becomes_a_label_or_a_name(make: Build) -> None:
    application = make(FakePredictor(lambda pairs, cancel: [YES for _ in pairs]), max_chars=40)
    application.supervisor.load()
    application.submit(PICTURE, "xylophonist").result(PATIENCE)
    for image, text in ((PICTURE, "xylophonist " * 9), ("xylophonist.png", "a"), (PICTURE, "")):
        with pytest.raises(InputError):
            application.submit(image, text)
    until_told(application, 1, "ofa_requests_total", source="api", outcome="answered")
    assert b"xylophonist" not in application.exposition()


def test_a_scrape_tells_its_own_cost(make: Build) -> None:
    application = make()
    scrape(application)
    told = scrape(application)
    assert told("ofa_exposition_duration_seconds_count") == 1
    assert told("ofa_exposition_duration_seconds_sum") > 0


def test_the_operators_table_names_every_metric_and_no_other(make: Build) -> None:
    document = (Path(__file__).resolve().parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    section = document.partition("\n## ")[0]
    rows = [row.split(" | ")[0] for row in section.splitlines() if row.startswith("| `")]
    written = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    # The parser drops the suffix of a counter, which its samples carry.
    told = scrape(make()).families.values()
    assert written == {f"{family.name}_total" if family.type == "counter" else family.name for family in told}

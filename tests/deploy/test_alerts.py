"""The alert rules, run by promtool: each alert with series of an instance that must raise it, beside one that
must not; and each has its section in the runbook."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.contract.causes import Outcome, RestartCause
from service.telemetry.gauges import CHECKS
from service.telemetry.metrics import RUNGS

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES = PROMETHEUS / "alerts.yml"
SECONDS = 300.0  # a bound for a failing test on a busy machine, not a measurement

BAD, GOOD = "bad:8000", "good:8000"


@dataclass(frozen=True)
class Case:
    """An alert, series that raise it, and similar series that must not, in promtool's notation with one value
    per ``step``. ``at`` is when it must fire; ``also`` are its labels beyond the instance's."""

    alert: str
    bad: Mapping[str, str]
    good: Mapping[str, str]
    at: str = "40m"
    step: str = "1m"
    also: Mapping[str, str] = field(default_factory=dict)


def requests(outcome: str, values: str) -> dict[str, str]:
    return {f'ofa_requests_total{{source="page", outcome="{outcome}"}}': values}


def loading(value: int) -> dict[str, str]:
    return {'ofa_health_check_status{check="model", status="loading"}': f"{value}x60"}


def probes(seconds: str, count: str) -> dict[str, str]:
    return {"ofa_probe_duration_seconds_sum": seconds, "ofa_probe_duration_seconds_count": count}


def durations(within: str, beyond: str) -> dict[str, str]:
    """Requests of up to 2 s and of up to 15 s: cumulative buckets and their count."""
    bucket = 'ofa_request_duration_seconds_bucket{{source="api", le="{}"}}'
    named = {bucket.format(edge): within for edge in ("2", "10")}
    named |= {bucket.format(edge): beyond for edge in ("15", "+Inf")}
    return {**named, 'ofa_request_duration_seconds_count{source="api"}': beyond}


GIB = 1 << 30
GROWING = f"{GIB}+{GIB // 20}x200"
STILL = "0x1600"
CASES = [
    # 1 in 3 without a verdict for an hour; invalid input does not count
    Case(
        "OfaErrorBudgetBurnFast",
        {**requests("answered", "0+2x70"), **requests("timeout", "0+1x70")},
        {**requests("answered", "0+2x70"), **requests("invalid", "0+9x70"), **requests("timeout", STILL)},
        at="65m",
    ),
    Case(
        "OfaErrorBudgetBurnSlow",
        {**requests("answered", "0+50x80"), **requests("error", "0+5x80")},
        {**requests("answered", "0+500x80"), **requests("error", "0+5x80")},
        at="6h30m",
        step="5m",
    ),
    Case("OfaDown", {"up": "1x10 0x60"}, {"up": "1x70"}),
    Case("OfaNotLive", {"ofa_live": "1x10 0x60"}, {"ofa_live": "1x70"}),
    # unhealthy while loading is no alert
    Case(
        "OfaUnhealthy",
        {"ofa_healthy": "1x10 0x60", **loading(0)},
        {"ofa_healthy": "0x70", **loading(1)},
        at="20m",
    ),
    Case("OfaLoadingLong", loading(1), loading(0), also={"check": "model", "status": "loading"}),
    # every start resets the counter
    Case(
        "OfaModelLoadFailing",
        {'ofa_model_load_attempts_total{outcome="hub_unavailable"}': "0x9 0 1 2 3 0 1 2 3 0x30"},
        {'ofa_model_load_attempts_total{outcome="loaded"}': "0x9 0 1 1 1 0 1 1 1 0x30"},
        at="25m",
    ),
    Case(
        "OfaRestarted",
        {'ofa_restarts_total{cause="device_lost"}': "0x9 1x60"},
        {'ofa_restarts_total{cause="asked"}': "0x9 1x60"},
        at="15m",
        also={"cause": "device_lost"},
    ),
    Case(
        "OfaRestartLoop",
        {'ofa_restarts_total{cause="hung"}': "0x9 1x4 2x4 3x60"},
        {'ofa_restarts_total{cause="hung"}': "0x9 1x60"},
        at="25m",
    ),
    Case(
        "OfaUnstable",
        {'ofa_probes_total{outcome="unstable"}': "0x9 1x60"},
        {'ofa_probes_total{outcome="success"}': "0x9 1x60"},
        at="20m",
        also={"outcome": "unstable"},
    ),
    Case(
        "OfaTimeouts",
        {'ofa_timeouts_total{stage="computing"}': "0+1x60"},
        {'ofa_timeouts_total{stage="computing"}': "0x9 1x60"},
        also={"stage": "computing"},
    ),
    Case("OfaSlow", durations("0+2x60", "0+4x60"), durations("0+4x60", "0+4x60")),
    # a day of 1 s, then 7 s
    Case(
        "OfaLatencyDrift",
        probes("0+5x288 1440+35x12", "0+5x300"),
        probes("0+5x288 1440+10x12", "0+5x300"),
        at="24h55m",
        step="5m",
    ),
    Case(
        "OfaOverloaded",  # both count: neither alone would be enough here
        {f'ofa_rejections_total{{reason="{reason}"}}': "0+0.6x60" for reason in ("queue_full", "too_late")},
        {'ofa_rejections_total{reason="no_image"}': "0+5x60"},
    ),
    Case(
        "OfaApiErrors",
        {'ofa_http_requests_total{route="/v1/judge", status="500"}': "0+1x60"},
        {'ofa_http_requests_total{route="/v1/judge", status="503"}': "0+9x60"},
        also={"route": "/v1/judge"},
    ),
    Case("OfaComputationStuck", {"ofa_orphaned_inferences": "0x9 1x60"}, {"ofa_orphaned_inferences": "0x70"}),
    Case(
        "OfaReaderStuck",
        {'ofa_reader_processes{state="stuck"}': "0x9 1x60"},
        {'ofa_reader_processes{state="busy"}': "4x70"},
        also={"state": "stuck"},
    ),
    Case("OfaFallbackActive", {"ofa_fallback_active": "1x60"}, {"ofa_fallback_active": "1x20 0x60"}),
    Case(
        "OfaOutOfMemory",
        {'ofa_out_of_memory_events_total{next="CPU"}': "0+1x60"},
        {'ofa_out_of_memory_events_total{next="CPU"}': "0x20 1x60"},
    ),
    Case(
        "OfaMemoryCreep",
        {
            "process_resident_memory_bytes": GROWING,
            "ofa_memory_limit_bytes": f"{16 * GIB}x200",
        },
        {"process_resident_memory_bytes": f"{GIB}x200", "ofa_memory_limit_bytes": f"{16 * GIB}x200"},
        at="8h",
        step="5m",
    ),
    Case(
        "OfaGpuMemoryCreep",
        {
            "ofa_gpu_memory_reserved_bytes": GROWING,
            "ofa_gpu_memory_size_bytes": f"{16 * GIB}x200",
        },
        {"ofa_gpu_memory_reserved_bytes": f"{GIB}x200", "ofa_gpu_memory_size_bytes": f"{16 * GIB}x200"},
        at="8h",
        step="5m",
    ),
    Case(
        "OfaResourceCritical",
        {'ofa_health_check_status{check="disk", status="critical"}': "1x60"},
        {'ofa_health_check_status{check="disk", status="warning"}': "1x60"},
        also={"check": "disk", "status": "critical"},
    ),
    Case(
        "OfaDescriptorsExhausted",
        {'ofa_descriptors_exhausted_total{port="page"}': "0x30 2x60"},
        {'ofa_descriptors_exhausted_total{port="page"}': "2x90"},
        also={"port": "page"},
    ),
    Case("OfaLogLinesLost", {"ofa_log_lines_lost_total": "0x30 9x60"}, {"ofa_log_lines_lost_total": "9x90"}),
    Case("OfaApiKeysOutdated", {"ofa_api_keys_outdated": "0x9 1x60"}, {"ofa_api_keys_outdated": "0x70"}),
]


def rules() -> dict[str, dict[str, Any]]:
    """The alerts of the file, by name."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def placed(series: Mapping[str, str], instance: str) -> list[dict[str, str]]:
    """The series with the labels that scraping adds."""
    found = []
    for name, values in series.items():
        metric, _, labels = name.partition("{")
        inner = ", ".join(
            filter(None, (f'job="visual-entailment", instance="{instance}"', labels.rstrip("}")))
        )
        found.append({"series": f"{metric}{{{inner}}}", "values": values})
    return found


def unit(case: Case) -> dict[str, Any]:
    """Return a promtool test: the bad instance's alert with its labels and annotations, and no other."""
    rule = rules()[case.alert]
    labels = {"job": "visual-entailment", "instance": BAD, **case.also}

    def filled(text: str) -> str:
        return re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda found: labels[found[1]], text)

    expected = {
        "exp_labels": {**labels, **rule["labels"]},
        "exp_annotations": {name: filled(text) for name, text in rule["annotations"].items()},
    }
    return {
        "name": case.alert,
        "interval": case.step,
        "input_series": [*placed(case.bad, BAD), *placed(case.good, GOOD)],
        "alert_rule_test": [{"eval_time": case.at, "alertname": case.alert, "exp_alerts": [expected]}],
    }


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["promtool", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=SECONDS
    )


def judged(folder: Path, *cases: Case) -> tuple[bool, str]:
    """Return whether all cases passed, and promtool's output. Cases of one step share a file, which is
    evaluated at that step."""
    files = []
    for step in {case.step for case in cases}:
        tests = [unit(case) for case in cases if case.step == step]
        files.append(folder / f"alerts.{step}.yml")
        content = {"rule_files": [str(RULES)], "evaluation_interval": step, "tests": tests}
        files[-1].write_text(yaml.safe_dump(content), encoding="utf-8")
    done = promtool("test", "rules", *files)
    return done.returncode == 0, done.stdout + done.stderr


def test_prometheus_accepts_the_configuration() -> None:
    done = promtool("check", "config", PROMETHEUS / "prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_tested() -> None:
    assert {case.alert for case in CASES} == set(rules())


def test_each_alert_is_raised_by_its_case_and_by_no_other(tmp_path: Path) -> None:
    as_expected, said = judged(tmp_path, *CASES)
    assert as_expected, said


def test_a_case_with_swapped_instances_fails(tmp_path: Path) -> None:
    """Proves that the test above can fail."""
    case = next(case for case in CASES if case.alert == "OfaNotLive")
    as_expected, said = judged(tmp_path, Case(case.alert, case.good, case.bad))
    assert not as_expected
    assert GOOD in said


def test_rules_use_only_label_values_that_metrics_have() -> None:
    """Every label value in an expression is one of the service."""
    known = {
        "outcome": {*Outcome, "loaded", "unstable", "success"},
        "check": set(CHECKS),
        "status": {"500", *(word for words in CHECKS.values() for word in words)},
        "cause": set(RestartCause),
        "next": set(RUNGS),
        "source": {"page", "api", "probe"},
        "reason": {"queue_full", "too_late"},
        "state": {"idle", "busy", "stuck"},
        "job": {"visual-entailment"},
    }
    text = RULES.read_text(encoding="utf-8")
    asked = re.findall(r'(\w+)(?:=|!=|=~|!~)"([^"]*)"', text)
    assert asked
    assert {
        (label, word) for label, values in asked for word in values.split("|") if word not in known[label]
    } == set()


@pytest.mark.parametrize("alert", rules())
def test_every_alert_has_its_section_in_the_runbook(alert: str) -> None:
    rule = rules()[alert]
    assert set(rule["annotations"]) == {"summary", "runbook"}
    assert rule["labels"]["severity"] in ("critical", "warning", "info")
    document, _, anchor = rule["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^#+ (.+)$", (ROOT / document).read_text(encoding="utf-8"), re.MULTILINE)
    assert anchor == alert.lower()
    assert alert in headings

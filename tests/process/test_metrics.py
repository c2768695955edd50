"""/metrics of a real process counts real traffic and passes promtool."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

import pytest

from lab.instances.instance import Instance
from tests.exposition import Scraped

SECRET = "xylophonist"


def scrape(instance: Instance) -> Scraped:
    status, body = instance.get("/metrics")
    assert status == 200
    return Scraped(body)


def total(told: Scraped, name: str, **labels: str) -> float:
    """Sum over the series with these labels; probes do not count as traffic."""
    return sum(
        value
        for (known, given), value in told.samples.items()
        if known == name and labels.items() <= dict(given).items() and ("source", "probe") not in given
    )


def test_counts_match_the_traffic(running_service: Instance, red_circle: bytes) -> None:
    """Other tests use the same instance, so compare differences."""
    before = scrape(running_service)
    verdicts = [running_service.judge(red_circle, f"there is a {SECRET} {n}")["label"] for n in range(3)]
    with pytest.raises(AssertionError, match="event: error"):
        running_service.judge(red_circle, f"{SECRET} " * 200)

    def risen(name: str, **labels: str) -> float:
        return total(scrape(running_service), name, **labels) - total(before, name, **labels)

    # An answer is sent a moment before it is counted.
    running_service.wait_for("the counts", lambda: risen("ofa_requests_total", outcome="answered") == 3)
    running_service.wait_for("the refusal", lambda: risen("ofa_requests_total", outcome="invalid") == 1)
    assert risen("ofa_requests_total") == 4
    assert risen("ofa_request_duration_seconds_count") == 3
    assert risen("ofa_request_stage_duration_seconds_count", stage="compute") == 3
    assert risen("ofa_batch_size_requests_sum") == 3
    assert risen("ofa_rejections_total", reason="text_too_long") == 1
    for label in set(verdicts):
        assert risen("ofa_verdicts_total", label=label) == verdicts.count(label)
    assert SECRET not in running_service.get("/metrics")[1]


def test_a_real_process_exports_memory_device_and_versions(running_service: Instance) -> None:
    told = scrape(running_service)
    assert told("process_resident_memory_bytes") > 100e6  # torch alone is more
    assert told("ofa_memory_limit_bytes") >= told("ofa_memory_used_bytes") > 0
    assert told("ofa_disk_size_bytes") >= told("ofa_disk_used_bytes") > 0
    (info,) = told.families["ofa_model_info"].samples
    assert info.labels["model"] == "demo"
    assert info.labels["device"]
    (build,) = told.families["ofa_build_info"].samples
    assert build.labels["torch"]
    assert told("ofa_healthy") == told("ofa_live") == 1


def test_promtool_finds_no_error(running_service: Instance, promtool: Callable[[str], str]) -> None:
    assert promtool(running_service.get("/metrics")[1]) == ""


def test_promtool_would_find_an_error(promtool: Callable[[str], str]) -> None:
    assert "counter metrics should have" in promtool("# HELP a x\n# TYPE a counter\na 1\n")


@pytest.fixture
def promtool() -> Callable[[str], str]:
    """Return the complaints of ``promtool check metrics`` about a scrape."""

    def check(text: str) -> str:
        done = subprocess.run(
            ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
        )
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == (said == ""), (done.returncode, said)
        return said

    return check

"""Every recorded fault shows in a metric, has an alert, and is found by the doctor."""

from __future__ import annotations

import re

import pytest

from lab.instances.instance import ROOT
from service.telemetry.gauges import read_restarts
from tests.doctor.coverage import documents, table
from tests.doctor.record import LOGS
from tests.doctor.recordings import COMPUTED, RECORDINGS, RESTARTS, UP, Recording

FAULTS = [one for one in RECORDINGS if one.names]
#: Series of Prometheus itself, and trends that no single scrape shows.
NOT_IN_ONE_SCRAPE = ("", UP, "process_resident_memory_bytes", COMPUTED)
ALERTS = ROOT / "deploy" / "prometheus" / "alerts.yml"


@pytest.mark.parametrize(
    "recording", [one for one in FAULTS if one.metric not in NOT_IN_ONE_SCRAPE], ids=lambda one: one.name
)
def test_the_metric_of_a_fault_has_risen_where_it_was_recorded(recording: Recording) -> None:
    folder = LOGS / recording.name
    if recording.metric.startswith(RESTARTS):
        (cause,) = re.findall(r'cause="(\w+)"', recording.metric)
        assert read_restarts(folder / "restart_counts")[cause] >= 1
    else:
        samples = (folder / "metrics.txt").read_text(encoding="utf-8").splitlines()
        (value,) = (line.split()[-1] for line in samples if line.startswith(recording.metric + " "))
        assert float(value) > 0


@pytest.mark.parametrize("recording", [one for one in FAULTS if one.alert], ids=lambda one: one.name)
def test_the_alert_of_a_fault_exists(recording: Recording) -> None:
    assert f"- alert: {recording.alert}\n" in ALERTS.read_text(encoding="utf-8")


def test_the_documentation_has_the_table() -> None:
    assert table() in documents()

"""Logs recorded from real faults: each is found and nothing else; healthy logs have no findings."""

from __future__ import annotations

import pytest

from doctor import examine
from doctor.findings import SEVERITIES
from lab.instances.instance import ROOT
from tests.doctor.record import LOGS
from tests.doctor.recordings import RECORDINGS, Recording


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda one: one.name)
def test_a_recorded_fault_is_found_and_nothing_else(recording: Recording) -> None:
    findings = examine(LOGS / recording.name)
    assert sorted(one.code for one in findings) == sorted(recording.names)
    for one in findings:
        assert one.evidence, one.code
        assert one.severity == SEVERITIES[one.code] or one.resolved


def test_every_recording_exists_and_names_no_machine() -> None:
    assert {path.name for path in LOGS.iterdir()} == {one.name for one in RECORDINGS}
    for path in LOGS.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not [word for word in (str(ROOT), "/tmp", "/root", "/home") if word in text], path

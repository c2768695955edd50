"""Logs recorded from real faults: each is named and nothing else is; healthy logs yield nothing."""

from __future__ import annotations

import pytest

from doctor import examine
from doctor.english import AILMENTS
from lab.instances.instance import ROOT
from tests.doctor.record import LOGS
from tests.doctor.recordings import RECORDINGS, Recording


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda one: one.name)
def test_a_recorded_fault_is_named_and_nothing_else_is(recording: Recording) -> None:
    findings = examine(LOGS / recording.name)
    assert sorted(one.code for one in findings) == sorted(recording.names)
    for one in findings:
        assert one.evidence, one.code
        assert one.severity == AILMENTS[one.code].severity or one.over


def test_every_recording_is_there_and_names_no_machine() -> None:
    assert {path.name for path in LOGS.iterdir()} == {one.name for one in RECORDINGS}
    for path in LOGS.rglob("*"):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            assert not [word for word in (str(ROOT), "/tmp", "/root", "/home") if word in text], path

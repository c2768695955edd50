"""The line a minute that later tells a leak or a jump of the clock."""

from __future__ import annotations

import logging
import os

import pytest

from service.health.resources import Resources, Use
from service.telemetry.vitals import Vitals
from tests.fakes import Clock

SAMPLE = Resources(
    at=0.0, memory=Use(25, 100), memory_by="host", disk=Use(1, 2), process_memory=512, threads=7
)


def test_a_line_comes_at_once_and_then_once_a_period(caplog: pytest.LogCaptureFixture) -> None:
    clock, unix = Clock(), Clock(1_795_000_000)
    vitals = Vitals(period=60.0, clock=clock, unix=unix)
    with caplog.at_level(logging.INFO, "service.telemetry.vitals"):
        for _ in range(61):
            vitals.sample(SAMPLE)
            clock.move(2.0)
            unix.move(2.0)
    first, second, third = (record.getMessage() for record in caplog.records)
    head = f"VITALS | PID={os.getpid()} | UP="
    assert first == head + ("0s | UNIX=1795000000 | RSS=512 | MEMORY=25% | DISK=50% | GPU=none | THREADS=7")
    assert second.startswith(head + "60s | UNIX=1795000060 ")
    assert third.startswith(head + "120s | UNIX=1795000120 ")


def test_a_clock_that_is_set_shows_in_one_figure_and_not_in_the_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock, unix = Clock(), Clock(1_795_000_000)
    vitals = Vitals(period=60.0, clock=clock, unix=unix)
    with caplog.at_level(logging.INFO, "service.telemetry.vitals"):
        vitals.sample(SAMPLE)
        clock.move(60.0)
        unix.move(-3540.0)
        vitals.sample(SAMPLE)
    assert "UP=60s | UNIX=1794996460 " in caplog.records[1].getMessage()

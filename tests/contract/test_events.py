"""The fan-out of events."""

from __future__ import annotations

import logging

import pytest

from service.contract.events import Events, Listener


class Recorder(Listener):
    def __init__(self) -> None:
        self.heard: list[tuple[str, float]] = []

    def probed(self, outcome: str, seconds: float) -> None:
        self.heard.append((outcome, seconds))


class Broken(Listener):
    def probed(self, outcome: str, seconds: float) -> None:
        raise ValueError("xylophonist")


def test_every_listener_gets_every_event_by_position_or_name() -> None:
    first, second = Recorder(), Recorder()
    Events(first, second).probed("success", seconds=1.0)
    assert first.heard == second.heard == [("success", 1.0)]


def test_a_listener_that_fails_is_logged_and_keeps_the_event_from_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    last = Recorder()
    with caplog.at_level(logging.ERROR):
        Events(Broken(), last).probed("success", 1.0)
    assert last.heard == [("success", 1.0)]
    assert [record.getMessage().split(" | ")[0] for record in caplog.records] == ["BROKEN"]
    assert "xylophonist" not in caplog.records[0].getMessage()


def test_the_fan_out_has_every_hook() -> None:
    hooks = [name for name in vars(Listener) if not name.startswith("_")]
    assert hooks
    assert all(getattr(Events, hook) is not getattr(Listener, hook) for hook in hooks)

"""Times shared by the service and its guardian."""

from __future__ import annotations

import inspect
import re

from health_api import Sidecar
from lab.instances.instance import ROOT
from service.contract import times
from service.health.channel import Channel
from service.hub import resolve as hub
from service.settings import Settings


def guardians(name: str) -> float:
    """The default in guardian.sh."""
    (value,) = re.findall(rf"seconds {name} (\d+)", (ROOT / "guardian.sh").read_text())
    return float(value)


def test_the_guardians_defaults_are_the_same() -> None:
    assert guardians("STOP_TIMEOUT") == times.STOP_TIMEOUT
    assert guardians("START_STALL") == times.START_STALL
    unit = (ROOT / "deploy" / "systemd" / "visual-entailment.service").read_text()
    assert f"TimeoutStopSec={times.STOP_TIMEOUT:g}\n" in unit


def test_all_steps_of_a_stop_are_over_before_the_guardian_kills() -> None:
    named = {name: value for name, value in vars(times).items() if name.startswith("STOP_")}
    steps = [value for name, value in named.items() if name not in ("STOP_TIMEOUT", "STOP_STEPS")]
    assert sorted(steps) == sorted(times.STOP_STEPS), "a step is missing in the sum"
    assert sum(times.STOP_STEPS) <= times.STOP_TIMEOUT - 2, "the process has to leave as well"
    assert Settings.stop_grace == times.STOP_GRACE
    for stop, step in ((Sidecar.stop, times.STOP_SIDECAR), (Channel.stop, times.STOP_CHANNEL)):
        assert inspect.signature(stop).parameters["wait"].default == step / 2


def test_a_stop_does_not_drain_by_default_as_its_steps_take_all_the_time() -> None:
    assert Settings.drain_delay == 0


def test_accepted_requests_keep_their_whole_time_limit_during_a_stop() -> None:
    assert Settings.timeout <= times.STOP_GRACE


def test_no_pause_in_loading_is_as_long_as_the_guardian_waits_for_progress() -> None:
    assert times.LONGEST_PAUSE < times.START_STALL
    assert hub._STALL_LIMIT == times.LONGEST_PAUSE

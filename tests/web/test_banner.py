"""The status line shows the state of the service."""

from __future__ import annotations

from dataclasses import replace

import pytest

from page import banner
from page.words import LANGUAGES, Language, say
from service.contract.status import Phase, Progress
from tests.web.application import READY


@pytest.mark.parametrize(
    ("snapshot", "state"),
    [
        (replace(READY, phase=Phase.UNINITIALIZED), "loading"),
        (replace(READY, phase=Phase.LOADING), "loading"),
        (READY, "ready"),
        (replace(READY, degraded="running on the CPU"), "degraded"),
        (replace(READY, phase=Phase.FAILED, degraded="x"), "failed"),
        (replace(READY, phase=Phase.STOPPING), "stopping"),
    ],
)
@pytest.mark.parametrize("language", LANGUAGES)
def test_every_state_has_a_line(snapshot: banner.Snapshot, state: str, language: Language) -> None:
    assert banner.state_of(snapshot) == state
    assert f"state-{state}" in banner.render(snapshot, language)


def test_ready_names_model_device_and_precision() -> None:
    assert "demo · CPU · fp32" in banner.render(READY, "en")


def test_loading_shows_bytes_and_percent() -> None:
    progress = Progress("fetching", done_bytes=500_000_000, total_bytes=1_900_000_000)
    line = banner.render(replace(READY, phase=Phase.LOADING, progress=progress), "en")
    assert 'max="100" value="26"' in line
    assert f"26% · {say('en', 'state.progress', done='500.0', total='1900.0')}" in line


def test_loading_of_unknown_size_shows_an_indeterminate_bar() -> None:
    line = banner.render(replace(READY, phase=Phase.LOADING), "en")
    assert '<progress class="state-bar"></progress>' in line


def test_a_models_name_is_escaped() -> None:
    assert "<b>" not in banner.render(replace(READY, model="<b>x</b>"), "en")

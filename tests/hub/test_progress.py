"""The meter of parallel downloads, and the progress bar."""

from __future__ import annotations

import io
import sys

import pytest

from service.hub.progress import Abandoned, Meter, Progress, terminal_bar


def test_files_are_added_up_and_the_end_is_always_reported() -> None:
    seen: list[Progress] = []
    meter = Meter(100, {"kept": 40}, seen.append)
    for _ in range(6):
        meter.add("new", 10)
    assert seen[0] == Progress("new", 50, 100)
    assert seen[-1] == Progress("new", 100, 100)


def test_a_file_begun_again_counts_once() -> None:
    seen: list[Progress] = []
    meter = Meter(50, {}, seen.append)
    meter.add("file", 30)
    meter.add("file", -30)
    meter.add("file", 50)
    assert seen[-1] == Progress("file", 50, 50)


def test_what_a_callback_raises_passes_through_code_that_catches_exceptions() -> None:
    class Stop(Exception):
        pass

    def show(progress: Progress) -> None:
        raise Stop

    def careless(meter: Meter) -> None:
        try:
            meter.put("file", 1)
        except Exception:
            pytest.fail("a client's retry would have swallowed it")

    meter = Meter(1, {}, show)
    with pytest.raises(Stop), meter.watched():
        careless(meter)


def test_a_stop_that_is_not_the_meters_own_passes_unchanged() -> None:
    with pytest.raises(Abandoned), Meter(1, {}, print).watched():
        raise Abandoned


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "drawn"), [(Terminal(), True), (io.StringIO(), False)])
def test_a_bar_is_drawn_on_a_terminal_alone(
    stream: io.StringIO, drawn: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", stream)
    with terminal_bar() as show:
        show(Progress("vocab.json", 512, 2048))
        show(Progress("pytorch_model.bin", 2048, 2048))
    assert ("pytorch_model.bin: 100%" in stream.getvalue()) is drawn
    assert bool(stream.getvalue()) is drawn


def test_a_cached_model_shows_no_progress_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", stream := Terminal())
    with terminal_bar():
        pass
    assert stream.getvalue() == ""

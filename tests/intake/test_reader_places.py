"""The order in which pictures get readers, by caller and by declared memory."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from service.contract.errors import Abandoned, DeadlineExceeded, ShuttingDown
from service.intake.readers import HEAVY_BYTES, LIGHT_BYTES, Readers
from tests.fakes import PATIENCE, until
from tests.reading import SMALL, Make, read
from tests.stand_in_reader import Desk, stand_in


class Crowd(Desk):
    """Callers of stand-in readers, whose progress the test controls."""

    def __init__(self, readers: Readers, folder: Path) -> None:
        super().__init__(folder)
        self._readers = readers
        self._pool = ThreadPoolExecutor(32)

    def ask(
        self,
        name: str,
        caller: str = "",
        *,
        declared_bytes: int = 0,
        padding: int = 0,
        seconds: float = PATIENCE,
        wanted: Future[Any] | None = None,
    ) -> Future[Any]:
        """Submit a picture called ``name``. Returns when it is waiting or being read."""
        data, before = self.picture(name, declared_bytes).read_bytes() + b" " * padding, self._known()
        asked = self._pool.submit(read, self._readers, data, seconds=seconds, caller=caller, wanted=wanted)
        until(lambda: asked.done() or self._known() > before)
        return asked

    def _known(self) -> int:
        state = self._readers.state()
        return state.waiting + state.busy

    def close(self) -> None:
        self._readers.stop()
        self._pool.shutdown()


@pytest.fixture
def crowd(make_readers: Make, tmp_path: Path) -> Iterator[Crowd]:
    crowd = Crowd(make_readers(count=4, make=stand_in), tmp_path)
    yield crowd
    crowd.close()


def test_a_caller_holds_half_of_the_readers_and_others_are_served_beside_him(crowd: Crowd) -> None:
    asked = [crowd.ask(f"a{index}", "A") for index in range(5)]
    until(lambda: len(crowd.reading()) == 2)
    other = crowd.ask("b", "B")
    until(lambda: "b" in crowd.reading())
    crowd.finish("b")
    other.result(PATIENCE)
    assert len(crowd.reading()) == 3, "nobody else of A's was let in"
    crowd.finish(*(f"a{index}" for index in range(5)))
    for one in asked:
        one.result(PATIENCE)


def test_the_caller_with_the_fewest_readers_comes_first(crowd: Crowd) -> None:
    for name, caller in [("a0", "A"), ("b0", "B"), ("c0", "C"), ("d0", "D")]:
        crowd.ask(name, caller)
    until(lambda: len(crowd.reading()) == 4)
    first, second = crowd.ask("a1", "A"), crowd.ask("e0", "E")
    crowd.finish("b0")
    until(lambda: "e0" in crowd.reading())
    assert "a1" not in crowd.reading()
    crowd.finish("a0", "c0", "d0", "a1", "e0")
    first.result(PATIENCE)
    second.result(PATIENCE)


def test_heavy_pictures_leave_one_place_to_the_others_also_while_they_wait(crowd: Crowd) -> None:
    heavy = [crowd.ask(f"h{index}", f"H{index}", declared_bytes=LIGHT_BYTES + 1) for index in range(6)]
    until(lambda: len(crowd.reading()) == 3)
    for index in range(3):
        light = crowd.ask(f"l{index}", f"L{index}", declared_bytes=LIGHT_BYTES)
        until(lambda index=index: f"l{index}" in crowd.reading())
        crowd.finish(f"l{index}")
        light.result(PATIENCE)
    assert len([name for name in crowd.reading() if name.startswith("h")]) == 3
    crowd.finish(*(f"h{index}" for index in range(6)))
    for one in heavy:
        one.result(PATIENCE)


def test_a_caller_s_own_heavy_pictures_leave_a_place_to_his_ordinary_ones(crowd: Crowd) -> None:
    heavy = [crowd.ask(f"h{index}", "A", declared_bytes=LIGHT_BYTES + 1) for index in range(3)]
    until(lambda: len(crowd.reading()) == 1)
    light = crowd.ask("light", "A")
    until(lambda: "light" in crowd.reading())
    assert len(crowd.reading()) == 2
    crowd.finish("light", "h0", "h1", "h2")
    for one in (light, *heavy):
        one.result(PATIENCE)


def test_the_smallest_file_of_a_caller_comes_first(crowd: Crowd) -> None:
    first = [crowd.ask(name, "A") for name in ("a0", "a1")]
    until(lambda: len(crowd.reading()) == 2)
    large = [crowd.ask(f"large{index}", "A", padding=8 << 20) for index in range(3)]
    small = crowd.ask("small", "A")
    crowd.finish("a0", "small")
    small.result(PATIENCE)
    assert not any(one.done() for one in large)
    crowd.finish("a1", *(f"large{index}" for index in range(3)))
    for one in (*first, *large):
        one.result(PATIENCE)


def test_heavy_pictures_share_a_budget_of_memory_and_a_larger_one_is_read_alone(crowd: Crowd) -> None:
    whole = crowd.ask("whole", "A", declared_bytes=HEAVY_BYTES + 1)
    until(lambda: crowd.reading() == {"whole"})
    others = [crowd.ask(f"h{index}", f"H{index}", declared_bytes=HEAVY_BYTES // 2) for index in range(3)]
    crowd.finish("whole")
    whole.result(PATIENCE)
    until(lambda: len(crowd.reading()) == 3)
    crowd.finish("h0", "h1", "h2")
    for one in others:
        one.result(PATIENCE)


@pytest.mark.parametrize("reading", [True, False], ids=["being read", "waiting"])
def test_the_deadline_ends_a_picture_wherever_it_is(crowd: Crowd, reading: bool) -> None:
    crowd.finish("first")
    crowd.ask("first", "A").result(PATIENCE)  # the readers have started
    if not reading:
        for index in range(2):
            crowd.ask(f"a{index}", "A")
        until(lambda: {"a0", "a1"} <= crowd.reading())
    with pytest.raises(DeadlineExceeded):
        crowd.ask("late", "A", seconds=1.0).result(PATIENCE)
    assert ("late" in crowd.reading()) == reading
    crowd.finish("a0", "a1", "next")
    crowd.ask("next", "A").result(PATIENCE)


def test_a_deadline_that_has_passed_reads_nothing(crowd: Crowd) -> None:
    with pytest.raises(DeadlineExceeded):
        crowd.ask("late", seconds=-1.0).result(PATIENCE)
    assert crowd.reading() == set()


@pytest.mark.parametrize("reading", [True, False], ids=["being read", "waiting"])
def test_a_cancelled_read_frees_its_place(crowd: Crowd, reading: bool) -> None:
    first = [Future(), Future()] if reading else [Future(), Future(), Future()]  # type: ignore[var-annotated]
    asked = [crowd.ask(f"a{index}", "A", wanted=wanted) for index, wanted in enumerate(first)]
    until(lambda: len(crowd.reading()) == 2)
    first[-1].cancel()
    with pytest.raises(Abandoned):
        asked[-1].result(PATIENCE)
    assert "a2" not in crowd.reading()
    if reading:
        crowd.ask("next", "A")
        until(lambda: "next" in crowd.reading())


def test_a_picture_cancelled_before_reading_is_not_read(crowd: Crowd) -> None:
    wanted: Future[Any] = Future()
    wanted.cancel()
    with pytest.raises(Abandoned):
        crowd.ask("a", wanted=wanted).result(PATIENCE)
    assert crowd.reading() == set()


def test_a_stop_ends_what_is_read_and_what_waits(crowd: Crowd, make_readers: Make) -> None:
    asked = [crowd.ask(f"a{index}", "A") for index in range(4)]
    until(lambda: len(crowd.reading()) == 2)
    crowd.close()
    for one in asked:
        with pytest.raises(ShuttingDown):
            one.result(PATIENCE)
    stopped = make_readers()
    stopped.stop()
    with pytest.raises(ShuttingDown):
        read(stopped, SMALL)

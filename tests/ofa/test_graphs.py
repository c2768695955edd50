"""Recorded computations answer as direct ones, and give way to memory, cancellation and errors."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from lab.bench.gpu.tape import Tape
from lab.parity.folders import SMALL, write_folder
from ofa import graphs
from ofa.graphs import BATCHES, CudaGraphs, Graphs, Recording
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.precision import GuardedModel, Step
from ofa.samples import photograph, random_sentence
from ofa.vision import CancelPoint


class Stopped(Exception):
    pass


@dataclass
class Watched(Tape):
    """A tape that counts recordings, replayed parts and waits, and fails on request."""

    recordings: int = 0
    happened: list[str] = field(default_factory=list)
    error: Exception | None = None

    def record(self, function: Callable[[CancelPoint], Tensor]) -> Recording:
        self.recordings += 1
        if self.error is not None:
            raise self.error
        recording = super().record(function)
        return Recording([self._watched(part) for part in recording.parts], recording.output)

    def _watched(self, part: Callable[[], None]) -> Callable[[], None]:
        def watched() -> None:
            self.happened.append("part")
            part()

        return watched

    def mark(self) -> Callable[[], None]:
        number = self.happened.count("part")
        return lambda: self.happened.append(f"waited for {number}")


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def doubled(x: Tensor, cancel_point: CancelPoint | None = None) -> Tensor:
    for _ in range(20):
        if cancel_point is not None:
            cancel_point()
        x = x + x / 20
    return x


@pytest.fixture
def tape() -> Watched:
    return Watched()


@pytest.fixture
def clock() -> Clock:
    return Clock()


def rows(count: int, width: int = 3) -> Tensor:
    return torch.randn(count, width)


def test_a_shape_is_recorded_at_its_second_use_and_then_replayed(tape: Watched, clock: Clock) -> None:
    kept = Graphs(tape, clock)
    for recordings, parts in ((0, 0), (1, 3), (1, 6)):
        x = rows(2)
        assert torch.equal(kept.run("f", doubled, [x]), doubled(x))
        assert (tape.recordings, tape.happened.count("part")) == (recordings, parts)


def test_a_result_outlives_the_next_replay(tape: Watched, clock: Clock) -> None:
    kept, inputs = Graphs(tape, clock), [rows(2) for _ in range(4)]
    results = [kept.run("f", doubled, [x]) for x in inputs]
    assert all(torch.equal(result, doubled(x)) for x, result in zip(inputs, results, strict=True))


def test_batches_are_filled_up_only_where_little_is_wasted(tape: Watched, clock: Clock) -> None:
    recorded = set()
    for count in range(1, 12):
        kept, before = Graphs(tape, clock), tape.recordings
        for _ in range(3):
            x = rows(count)
            assert torch.equal(kept.run("f", doubled, [x]), doubled(x))
        recorded |= {count} if tape.recordings > before else set()
    assert recorded == {1, 2, 3, 4, 6, 7, 8}
    assert recorded >= set(BATCHES)


def test_the_least_recently_used_recording_is_dropped(
    tape: Watched, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(graphs, "_KEPT", 2)
    kept = Graphs(tape, clock)
    for name in ("a", "a", "b", "b", "a", "c", "c"):  # c drops b
        kept.run(name, doubled, [rows(1)])
    assert tape.recordings == 3
    kept.run("a", doubled, [rows(1)])
    assert tape.recordings == 3, "a was kept"
    kept.run("b", doubled, [rows(1)])
    assert tape.recordings == 3, "b was forgotten: this is its first use"
    kept.run("b", doubled, [rows(1)])
    assert tape.recordings == 4


def test_what_is_released_is_freed_and_recorded_again_only_after_a_pause(tape: Watched, clock: Clock) -> None:
    kept = Graphs(tape, clock)
    for _ in range(3):
        kept.run("f", doubled, [rows(1)])
    kept.release()
    assert not kept._kept
    clock.now += graphs._PAUSE - 1
    for _ in range(3):
        x = rows(1)
        assert torch.equal(kept.run("f", doubled, [x]), doubled(x))
    assert tape.recordings == 1
    clock.now += 2
    for _ in range(2):
        kept.run("f", doubled, [rows(1)])
    assert tape.recordings == 2


def test_a_release_while_recording_keeps_nothing(clock: Clock) -> None:
    kept: Graphs

    class Interrupted(Watched):
        def record(self, function: Callable[[CancelPoint], Tensor]) -> Recording:
            kept.release()  # by another thread
            return super().record(function)

    kept = Graphs(Interrupted(), clock)
    for _ in range(2):
        x = rows(1)
        assert torch.equal(kept.run("f", doubled, [x]), doubled(x))
    assert not kept._kept


def test_no_memory_for_a_recording_releases_all(
    tape: Watched, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Graphs(tape, clock)
    for name in ("f", "f", "g"):
        kept.run(name, doubled, [rows(1)])
    tape.error = torch.OutOfMemoryError("CUDA out of memory")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            x = rows(1)
            assert torch.equal(kept.run("g", doubled, [x]), doubled(x))
    assert ["REASON=out_of_memory" in line for line in caplog.messages] == [True]
    assert not kept._kept
    tape.error = None
    clock.now += graphs._PAUSE
    for _ in range(2):
        kept.run("g", doubled, [rows(1)])
    assert tape.recordings == 3


def test_any_other_error_of_a_recording_ends_all_with_one_log_line(
    tape: Watched, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Graphs(tape, clock)
    tape.error = RuntimeError("operation not permitted when stream is capturing")
    with caplog.at_level(logging.WARNING):
        for _ in range(4):
            clock.now += 2 * graphs._PAUSE
            x = rows(1)
            assert torch.equal(kept.run("f", doubled, [x]), doubled(x))
    assert caplog.messages == ["GRAPHS | OUTCOME=off | ERROR=RuntimeError"]
    assert tape.recordings == 1


def test_a_replay_stops_between_its_parts_and_starts_over_the_next_time(tape: Watched, clock: Clock) -> None:
    kept = Graphs(tape, clock)
    for _ in range(2):
        kept.run("f", doubled, [rows(1)])
    for stop_at in (1, 2, 3):
        tape.happened.clear()
        left = stop_at

        def stop() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Stopped

        with pytest.raises(Stopped):
            kept.run("f", doubled, [rows(1)], stop)
        assert tape.happened.count("part") == stop_at - 1
        x = rows(1)
        assert torch.equal(kept.run("f", doubled, [x]), doubled(x))


def test_at_most_two_parts_are_queued(tape: Watched, clock: Clock) -> None:
    kept = Graphs(tape, clock)
    for _ in range(2):
        kept.run("f", doubled, [rows(1)])
    assert tape.happened == ["part", "part", "waited for 1", "part", "waited for 2"]


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda x, _: x + torch.tensor([1.0]),
        lambda x, _: x * x.sum().item(),
        lambda x, _: x[x > 0].sum() + x,
        lambda x, _: x[:, [0, 0, 1]],
    ],
)
def test_the_tape_refuses_what_a_gpu_refuses(forbidden: Callable[..., Tensor]) -> None:
    with pytest.raises(RuntimeError, match="not permitted"):
        Tape().record(lambda split: forbidden(rows(2), split))


def test_the_tape_replays_operations_and_no_python() -> None:
    factor, x = [2.0], rows(2)
    recording = Tape().record(lambda split: (x * factor[0]).add_(1.0).view(-1)[1:])
    factor[0] = 5.0
    x.fill_(3.0)
    for part in recording.parts:
        part()
    assert recording.output.tolist() == [7.0] * 5


# ---- the whole model -------------------------------------------------------------------------------------


def accelerated(model: EntailmentModel, tape: Tape) -> EntailmentModel:
    """The same network, computed in padded batches and replayed."""
    other = EntailmentModel(model.network, model.tokenizer, model.task)
    other.accelerate(tape)
    return other


def asked(dice: random.Random, model: EntailmentModel, count: int) -> list[Pair]:
    """Pairs of all lengths, some about the same picture."""
    pictures = [photograph(dice.getrandbits(32), 60, 50) for _ in range(max(1, count - 1))]
    premise = model.task.prompt_slots == 2
    texts = [random_sentence(dice) * dice.choice((1, 1, 4)) for _ in range(count)]
    return [Pair(dice.choice(pictures), text, random_sentence(dice) if premise else None) for text in texts]


@pytest.mark.parametrize("name", SMALL)
def test_random_requests_answer_as_without(name: str, tmp_path: Path, tape: Watched) -> None:
    """Equal within 1e-5, whatever came before: other pictures, texts, batch sizes and lengths."""
    model = EntailmentModel.load(write_folder(tmp_path, SMALL[name]))
    fast, dice = accelerated(model, tape), random.Random(7)
    sizes = (1, 1, 3) if name == "full-size-picture" else (1, 2, 1, 3, 8, 1, 4, 5, 2, 1, 7, 3, 1)
    for size in sizes:
        pairs = asked(dice, model, size)
        for one, other in zip(model.judge(pairs), fast.judge(pairs), strict=True):
            assert one == pytest.approx(other, abs=1e-5)
    assert tape.recordings > 0
    assert tape.happened.count("part") > 0


def test_texts_of_different_length_share_one_call(tmp_path: Path, tape: Watched) -> None:
    spec = SMALL["defaults-resnet18"]  # with one wide decoder head, so that no prompt here is too long
    spec = replace(spec, network={**spec.network, "decoder_attention_heads": 1})
    model = EntailmentModel.load(write_folder(tmp_path, spec))
    fast, batches = accelerated(model, tape), list[int]()
    hook = model.network.encoder.layers[0].register_forward_hook(lambda _, x, y: batches.append(len(y)))
    texts = ("a", "a circle", "a red circle", "there is a small red circle in it")
    fast.judge([Pair(Image.new("RGB", (50, 40), "red"), text) for text in texts])
    hook.remove()
    assert batches == [4]


def test_a_longer_bias_is_other_memory_and_recorded_again(random_folder: Path, tape: Watched) -> None:
    fast, picture = accelerated(EntailmentModel.load(random_folder), tape), photograph(1, 60, 50)
    short, long = Pair(picture, "a"), Pair(picture, "a circle " * 20)
    for _ in range(2):
        fast.judge([short])
    assert tape.recordings == 2, "picture and text"
    fast.judge([long])
    for _ in range(2):
        fast.judge([short])
    assert tape.recordings == 3, "the text"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_reduced_precision_stays_finite_and_close(
    random_folder: Path, tape: Watched, dtype: torch.dtype
) -> None:
    model = EntailmentModel.load(random_folder, dtype=dtype)
    fast, dice = accelerated(model, tape), random.Random(8)
    for size in (2, 2, 3, 4, 4):
        pairs = asked(dice, model, size)
        for one, other in zip(model.judge(pairs), fast.judge(pairs), strict=True):
            assert one == pytest.approx(other, abs=0.05)


def test_answers_of_several_passes_are_computed_directly(random_folder: Path, tape: Watched) -> None:
    model = EntailmentModel.load(random_folder)
    model.scorer.single_pass = False
    fast = accelerated(model, tape)
    fast.scorer.single_pass = False
    fast._bias = model._bias
    pairs = asked(random.Random(9), model, 2)
    assert fast.judge(pairs) == model.judge(pairs)


def test_every_part_of_a_request_is_a_point_to_stop_at(model: EntailmentModel, tape: Watched) -> None:
    fast, pair = accelerated(model, tape), Pair(Image.new("RGB", (50, 40), "red"), "a circle")
    fast.judge([pair])
    before = fast.judge([pair])
    calls: list[None] = []
    tape.happened.clear()
    fast.judge([pair], lambda: calls.append(None))
    assert len(calls) == tape.happened.count("part") >= 2  # picture, then text

    def stop() -> None:
        raise Stopped

    with pytest.raises(Stopped):
        fast.judge([pair], stop)
    assert fast.judge([pair])[0] == pytest.approx(before[0], abs=1e-6)


def test_a_guarded_model_releases_the_graphs_of_both(random_folder: Path, tape: Watched) -> None:
    low, exact = (EntailmentModel.load(random_folder, dtype=d) for d in (torch.bfloat16, torch.float32))
    for one in (low, exact):
        one.accelerate(tape)
    # Everything is a close call.
    guarded = GuardedModel([Step("bf16", 100.0, lambda: low), Step("fp32", 0.0, lambda: exact)])
    pair = Pair(Image.new("RGB", (50, 40), "red"), "a circle")
    for _ in range(3):
        guarded.judge([pair])
    kept = [one._padded.graphs for one in (low, exact) if one._padded is not None]
    assert [bool(one._kept) for one in kept] == [True, True]
    guarded.release_graphs()
    assert [bool(one._kept) for one in kept] == [False, False]


def test_models_are_not_accelerated_unless_enabled(random_folder: Path) -> None:
    assert not graphs.ENABLED, "not measured on a GPU"
    assert EntailmentModel.load(random_folder)._padded is None


# ---- CUDA's own, with torch.cuda replaced -----------------------------------------------------------------


class Card:
    """torch.cuda's part in recording, as strict as it is about order and pools."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.open: list[object] = []
        self.pools = 0
        self.waited: list[str] = []
        card = self

        class Graph:
            def __init__(self) -> None:
                self.ended = False
                self._pool: object = None

            def capture_begin(self, pool: object = None, capture_error_mode: str = "global") -> None:
                assert not card.open
                assert capture_error_mode == "thread_local"
                card.open.append(self)
                if pool is None:
                    card.pools += 1
                self._pool = pool or ("pool", card.pools)

            def capture_end(self) -> None:
                if card.open != [self]:
                    raise RuntimeError("no capture")
                card.open.clear()
                self.ended = True

            def pool(self) -> object:
                assert self.ended
                return self._pool

            def replay(self) -> None:
                pass

        class Stream:
            def __init__(self, device: object = None) -> None:
                pass

            def wait_stream(self, other: object) -> None:
                pass

            def synchronize(self) -> None:
                card.waited.append("warm")

            def __enter__(self) -> None:
                pass

            def __exit__(self, *_: object) -> None:
                pass

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "Stream", Stream)
        monkeypatch.setattr(torch.cuda, "current_stream", Stream)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: stream)


def test_cuda_graphs_share_the_pool_of_living_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    card, backend, x = Card(monkeypatch), CudaGraphs(torch.device("cuda:0")), rows(1)
    first = backend.record(lambda split: doubled(x, split))
    assert (len(first.parts), card.pools, card.open) == (3, 1, [])
    second = backend.record(lambda split: doubled(x, split))
    assert card.pools == 1
    del first, second
    backend.record(lambda split: doubled(x, split))
    assert card.pools == 2, "a pool whose graphs are gone is not used again"


def test_an_error_while_capturing_ends_the_capture(monkeypatch: pytest.MonkeyPatch) -> None:
    card, backend, calls = Card(monkeypatch), CudaGraphs(torch.device("cuda:0")), []

    def fails_in_its_second_run(split: CancelPoint) -> Tensor:
        calls.append(None)
        for _ in range(9):
            split()
        if len(calls) == 2:
            raise RuntimeError("not permitted")
        return rows(1)

    with pytest.raises(RuntimeError, match="not permitted"):
        backend.record(fails_in_its_second_run)
    assert card.open == []
    assert len(backend.record(lambda split: doubled(rows(1), split)).parts) == 3

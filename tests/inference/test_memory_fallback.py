"""The memory fallback over a model whose memory runs out on order, with a clock moved by hand."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Mapping, Sequence

import pytest

from service.contract.errors import ComputationStopped, DeviceLost, OutOfMemory, ServiceError
from service.contract.events import Listener
from service.contract.protocols import CancelPoint, MultiDevice
from service.contract.request import Pair
from service.inference.memory_fallback import SETTLED, MemoryFallback, Pauses
from tests.fakes import PATIENCE, PICTURE, YES, Clock, FakeGpuModel, go_on, until

PAIR = Pair(PICTURE, "a")
FULL = "computing on the CPU: the memory of cuda:0 is full"


class Log:
    """What the memory_fallback reported."""

    def __init__(self) -> None:
        self.fatal: list[ServiceError] = []


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log() -> Log:
    return Log()


def ladder_of(model: MultiDevice, clock: Clock, log: Log, **more: object) -> MemoryFallback:
    return MemoryFallback(
        model,
        lambda: PAIR,
        clock=clock,
        on_fatal=log.fatal.append,
        **more,  # type: ignore[arg-type]
    )


def times(count: int) -> Callable[[str, int], bool]:
    """The GPU's memory does not suffice the first ``count`` times."""
    left = [count]

    def room(device: str, size: int) -> bool:
        if device == "cpu" or not left[0]:
            return True
        left[0] -= 1
        return False

    return room


def test_the_fake_is_what_the_ladder_stands_on() -> None:
    assert isinstance(FakeGpuModel(), MultiDevice)


# ---- down ------------------------------------------------------------------------------------------------


def test_with_room_nothing_is_touched(clock: Clock, log: Log) -> None:
    model = FakeGpuModel()
    memory_fallback = ladder_of(model, clock, log)
    assert memory_fallback.judge([PAIR], go_on) == [YES]
    assert (model.events, memory_fallback.degraded, memory_fallback.device) == ([], None, "cuda:0")
    assert memory_fallback.due_in(clock.now) is None


def test_one_shortage_is_mended_by_an_emptied_cache(clock: Clock, log: Log) -> None:
    model = FakeGpuModel(times(1))
    memory_fallback = ladder_of(model, clock, log)
    assert memory_fallback.judge([PAIR], go_on) == [YES]
    assert model.events == ["empty cache"]
    assert memory_fallback.degraded is None


def test_a_batch_is_halved_until_it_fits_and_answered_in_order(clock: Clock, log: Log) -> None:
    sizes: list[int] = []

    def room(device: str, size: int) -> bool:
        sizes.append(size)
        return size <= 2

    model = FakeGpuModel(room)
    pairs = [Pair(PICTURE, name) for name in "abcdefgh"]
    memory_fallback = ladder_of(model, clock, log)
    assert len(memory_fallback.judge(pairs, go_on)) == 8
    assert model.seen == list("abcdefgh")
    assert sizes == [8, 8, 4, 2, 2, 2, 2]
    assert memory_fallback.degraded is None


def test_what_a_smaller_batch_answered_is_not_asked_again_on_the_cpu(clock: Clock, log: Log) -> None:
    calls = [0]

    def room(device: str, size: int) -> bool:
        calls[0] += 1
        return device == "cpu" or (size == 1 and calls[0] < 7)

    model = FakeGpuModel(room)
    pairs = [Pair(PICTURE, name) for name in "abcd"]
    assert ladder_of(model, clock, log).judge(pairs, go_on) == [YES] * 4
    assert model.seen == list("abcd")
    assert model.device == "cpu"


def test_without_room_the_request_is_answered_on_the_cpu_and_so_is_the_next(clock: Clock, log: Log) -> None:
    model = FakeGpuModel(lambda device, size: device == "cpu")
    memory_fallback = ladder_of(model, clock, log)
    assert memory_fallback.judge([PAIR], go_on) == [YES]
    assert model.events == ["empty cache", "move cpu"]
    assert (memory_fallback.device, memory_fallback.dtype) == ("cpu", "fp32")
    assert memory_fallback.degraded == FULL
    assert memory_fallback.judge([PAIR], go_on) == [YES]
    assert model.events == ["empty cache", "move cpu"]  # straight on the CPU, with no fall before


def test_where_no_rung_has_memory_one_request_fails_and_the_next_is_served(clock: Clock, log: Log) -> None:
    full = [True]
    model = FakeGpuModel(lambda device, size: not full[0])
    memory_fallback = ladder_of(model, clock, log)
    with pytest.raises(OutOfMemory):
        memory_fallback.judge([PAIR], go_on)
    full[0] = False
    assert memory_fallback.judge([PAIR], go_on) == [YES]


def test_a_model_without_another_device_empties_halves_and_fails_cleanly(clock: Clock, log: Log) -> None:
    model = FakeGpuModel(lambda device, size: False)
    model.device, model.devices = "cpu", ("cpu",)
    memory_fallback = ladder_of(model, clock, log)
    with pytest.raises(OutOfMemory):
        memory_fallback.judge([PAIR, PAIR], go_on)
    assert not [event for event in model.events if event.startswith("move")]
    assert memory_fallback.degraded is None


def test_pythons_own_lack_of_memory_is_a_shortage_too(clock: Clock, log: Log) -> None:
    model = FakeGpuModel()
    failing = [True]

    def behave(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        if failing[0]:
            failing[0] = False
            raise MemoryError
        return [YES]

    model.behave = behave
    assert ladder_of(model, clock, log).judge([PAIR], go_on) == [YES]


def test_other_errors_are_no_business_of_the_ladder(clock: Clock, log: Log) -> None:
    def lose(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        raise DeviceLost("The CUDA context is lost.")

    model = FakeGpuModel()
    model.behave = lose
    with pytest.raises(DeviceLost):
        ladder_of(model, clock, log).judge([PAIR], go_on)
    assert model.events == []


def test_nothing_more_is_tried_for_a_request_nobody_waits_for(clock: Clock, log: Log) -> None:
    model = FakeGpuModel(lambda device, size: False)
    passed = [0]

    def stop_at_the_second() -> None:
        passed[0] += 1
        if passed[0] == 2:
            raise ComputationStopped("Nobody waits.")

    with pytest.raises(ComputationStopped):
        ladder_of(model, clock, log).judge([PAIR], stop_at_the_second)
    assert model.events == []


def test_the_failed_computations_tensors_are_let_go_before_the_next_try(clock: Clock, log: Log) -> None:
    class Tensor:
        pass

    held: list[weakref.ref[Tensor]] = []

    class Model(FakeGpuModel):
        def _demand(self, device: str, size: int) -> None:
            if not held:
                tensor = Tensor()
                held.append(weakref.ref(tensor))
                try:
                    raise RuntimeError("CUDA out of memory")
                except RuntimeError as error:
                    raise OutOfMemory("The GPU's memory is full.") from error

        def empty_cache(self) -> None:
            super().empty_cache()
            self.events.append("gone" if held[0]() is None else "held")

    model = Model()
    gc.disable()
    try:
        assert ladder_of(model, clock, log).judge([PAIR], go_on) == [YES]
    finally:
        gc.enable()
    assert model.events == ["empty cache", "gone"]


# ---- before a request ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("used", "reserved", "in_use", "emptied"),
    [
        (91, 40, 30, True),  # crowded, and a tenth of the card is ours to give back
        (90, 40, 30, False),  # not crowded
        (91, 40, 36, False),  # crowded by others: emptying ours would only cost time
        (91, 0, 0, False),
    ],
)
def test_a_crowded_gpus_cache_is_emptied_before_a_request_if_that_helps(
    used: int, reserved: int, in_use: int, emptied: bool, clock: Clock, log: Log
) -> None:
    model = FakeGpuModel()
    model.crowd = (reserved, in_use)
    ladder_of(model, clock, log, gpu_use=lambda: (used, 100)).judge([PAIR], go_on)
    assert model.events == (["empty cache"] if emptied else [])


def test_a_model_that_was_loaded_on_the_cpu_for_want_of_room_is_on_its_way_back(
    clock: Clock, log: Log
) -> None:
    model = FakeGpuModel()
    memory_fallback = ladder_of(model, clock, log)
    memory_fallback.loaded()
    assert memory_fallback.due_in(clock.now) is None
    model.device = "cpu"
    memory_fallback.loaded()
    assert memory_fallback.degraded == FULL
    assert memory_fallback.retry_gpu() is True
    assert (model.device, memory_fallback.degraded) == ("cuda:0", None)


# ---- the way back ----------------------------------------------------------------------------------------


def test_a_minute_without_memory_is_spent_on_the_cpu_and_ends_on_the_gpu(clock: Clock, log: Log) -> None:
    over = clock.now + 60
    model = FakeGpuModel(lambda device, size: device == "cpu" or clock.now >= over)
    memory_fallback = ladder_of(model, clock, log, pauses=Pauses(first=5, longest=300))
    trials: list[float] = []
    began = clock.now
    while not trials or memory_fallback.due_in(clock.now) is not None:
        assert memory_fallback.judge([PAIR], go_on) == [YES]  # a user a second, and every one is answered
        assert memory_fallback.degraded == FULL
        clock.move(1)
        if memory_fallback.due_in(clock.now) == 0.0:
            trials.append(clock.now - began)
            memory_fallback.retry_gpu()
    assert trials == [5, 15, 35, 75]
    assert memory_fallback.degraded is None
    assert memory_fallback.judge([PAIR], go_on) == [YES]
    assert memory_fallback.device == "cuda:0"
    assert model.events.count("move cpu") == 1
    assert model.events[-2:] == ["move cuda:0", "release cpu"]


def test_the_first_trial_finds_the_weights_still_there_a_failed_one_gives_them_back(
    clock: Clock, log: Log
) -> None:
    model = FakeGpuModel(lambda device, size: device == "cpu")
    memory_fallback = ladder_of(model, clock, log)
    memory_fallback.judge([PAIR], go_on)
    assert "release cuda:0" not in model.events
    assert memory_fallback.retry_gpu() is False
    assert model.events[-1] == "release cuda:0"


def test_a_gpu_that_runs_out_again_soon_is_tried_after_longer_pauses(clock: Clock, log: Log) -> None:
    full = [True]
    model = FakeGpuModel(lambda device, size: device == "cpu" or not full[0])
    memory_fallback = ladder_of(model, clock, log, pauses=Pauses(first=5, longest=300))

    def fall_and_return() -> float | None:
        full[0] = True
        memory_fallback.judge([PAIR], go_on)
        pause = memory_fallback.due_in(clock.now)
        full[0] = False
        assert memory_fallback.retry_gpu() is True
        return pause

    assert [fall_and_return() for _ in range(3)] == [5, 10, 20]
    clock.move(SETTLED)
    assert fall_and_return() == 5


def test_the_pauses_have_an_end() -> None:
    pauses = Pauses(first=5, longest=300)
    assert [pauses.after(failures) for failures in (0, 1, 5, 6, 1000)] == [5, 10, 160, 300, 300]


def test_a_trial_that_finds_the_device_lost_says_so(clock: Clock, log: Log) -> None:
    model = FakeGpuModel(lambda device, size: device == "cpu")
    memory_fallback = ladder_of(model, clock, log)
    memory_fallback.judge([PAIR], go_on)

    def lose(device: str, size: int) -> bool:
        raise DeviceLost("The CUDA context is lost.")

    model.room = lose
    assert memory_fallback.retry_gpu() is False
    assert [type(error) for error in log.fatal] == [DeviceLost]


def test_a_reload_ends_what_was_known_and_a_trial_of_before_promotes_nothing(clock: Clock, log: Log) -> None:
    model = FakeGpuModel(lambda device, size: device == "cpu")
    memory_fallback = ladder_of(model, clock, log)
    memory_fallback.judge([PAIR], go_on)

    def reload_meanwhile(device: str, size: int) -> bool:
        memory_fallback.reset()
        return True

    model.room = reload_meanwhile
    assert memory_fallback.retry_gpu() is False
    assert model.device == "cpu"
    assert memory_fallback.degraded is None
    assert memory_fallback.due_in(clock.now) is None


def test_a_promotion_waits_for_the_answer_under_way_so_that_its_device_is_true(log: Log) -> None:
    model = FakeGpuModel(lambda device, size: device == "cpu")
    memory_fallback = MemoryFallback(model, lambda: PAIR)
    memory_fallback.judge([PAIR], go_on)
    entered, go = threading.Event(), threading.Event()

    def slowly(pairs: Sequence[Pair], cancel: CancelPoint) -> Sequence[Mapping[str, float]]:
        entered.set()
        assert go.wait(PATIENCE)
        return [YES]

    model.behave, model.room = slowly, lambda device, size: True
    devices: list[str] = []

    def ask() -> None:
        memory_fallback.judge([PAIR], go_on)
        devices.append(memory_fallback.device)

    asking, trying = threading.Thread(target=ask), threading.Thread(target=memory_fallback.retry_gpu)
    asking.start()
    assert entered.wait(PATIENCE)
    trying.start()
    trying.join(0.05)
    assert model.device == "cpu"
    go.set()
    asking.join(PATIENCE)
    trying.join(PATIENCE)
    assert devices == ["cpu"]
    assert model.device == "cuda:0"


def test_a_fall_right_after_a_promotion_is_reported_after_it(clock: Clock, log: Log) -> None:
    """The thread of the trials is held up between the promotion and its report."""
    moves: list[str] = []
    full = [True]
    model = FakeGpuModel(lambda device, size: device == "cpu" or not full[0])

    class HeldUp(Listener):
        def moved(self, here: str, there: str) -> None:
            if there != "cpu":
                full[0] = True
                falling.start()
                falling.join(0.05)
            moves.append(there)

    memory_fallback = ladder_of(model, clock, log, events=HeldUp())
    falling = threading.Thread(target=memory_fallback.judge, args=([PAIR], go_on))
    memory_fallback.judge([PAIR], go_on)
    full[0] = False
    assert memory_fallback.retry_gpu() is True
    falling.join(PATIENCE)
    assert moves == ["cpu", "cuda:0", "cpu"]
    assert (model.device, memory_fallback.degraded) == ("cpu", FULL)
    assert memory_fallback.due_in(clock.now) is not None


def test_the_trials_thread_finds_the_way_back_by_itself_and_stops_when_told(log: Log) -> None:
    memory_fallback = MemoryFallback(FakeGpuModel(times(2)), lambda: PAIR, pauses=Pauses(first=0.01))
    memory_fallback.start()
    memory_fallback.judge([PAIR], go_on)
    until(lambda: memory_fallback.degraded is None)
    assert memory_fallback.stop(PATIENCE) is True

"""Keeps answering when memory runs out: steps that each give up a little more, but never the answer.

``STEPS`` holds them as data; a batch that runs out of memory takes one step after the other. After the last
one the model stays on the CPU, so that later requests do not repeat the fall. While it is there, a thread
retries the GPU with a small question, off the request path and with growing pauses, and moves the model back
when that succeeds.

Only the engine's thread calls ``judge``; the retry thread calls ``retry_gpu``. Moving back waits until no
``judge`` runs, so that one answer comes from one device and names it.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from service.contract.errors import DeviceLost, NotReady, OutOfMemory, ServiceError
from service.contract.events import NO_EVENTS, Listener
from service.contract.protocols import CancelPoint, MultiDevice
from service.contract.request import Pair

Scores = Mapping[str, float] | None
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """What is done before a batch is tried again."""

    name: str
    empty_cache: bool = False
    halve: bool = False
    cpu: bool = False


STEPS: Final = (
    Step("as asked"),
    Step("cache emptied", empty_cache=True),
    Step("smaller batch", empty_cache=True, halve=True),
    Step("CPU", cpu=True),
)
CROWDED: Final = 0.90  # above this share of the GPU the cache is emptied before a request …
MATERIAL: Final = 0.05  # … if at least this share of the GPU is reserved by us and unused
SETTLED: Final = 60.0  # seconds on the GPU after which the pauses between retries start short again


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds before the first retry of the GPU, doubled after each failed one up to ``longest``."""

    first: float = 5.0
    longest: float = 300.0

    def after(self, failures: int) -> float:
        return float(min(self.longest, self.first * 2 ** min(failures, 30)))


class Fallback:
    """No fallback: for a model that has one device."""

    degraded: str | None = None

    def start(self) -> None: ...

    def stop(self, wait: float = 2.0) -> bool:
        return True

    def loaded(self) -> None: ...

    def reset(self) -> None: ...


class MemoryFallback(Fallback):
    """A Predictor that answers as long as the machine's own memory suffices, whatever the GPU's does."""

    def __init__(
        self,
        model: MultiDevice,
        sample: Callable[[], Pair],
        *,
        pauses: Pauses | None = None,
        gpu_use: Callable[[], tuple[int, int] | None] = lambda: None,
        on_fatal: Callable[[ServiceError], None] = lambda error: None,
        events: Listener = NO_EVENTS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            sample: returns the prepared pair that a retry of the GPU asks.
            gpu_use: returns used and total bytes of the GPU, other processes included, as last sampled.
            on_fatal: called when a retry finds the device lost.
        """
        self._model = model
        self._sample = sample
        self._pauses = pauses or Pauses()
        self._gpu_use = gpu_use
        self._on_fatal = on_fatal
        self._events = events
        self._clock = clock
        # Held by judge, and while the model is moved and that is reported, so that reports keep the order of
        # the moves. Taken before _wake.
        self._moving = threading.Lock()
        self._wake = threading.Condition()  # guards everything below
        self._fallen_at: float | None = None  # since when on the CPU in place of a GPU
        self.degraded = None  # replaced whole, so read without the lock
        self._promoted_at = -float("inf")
        self._failures = 0
        self._retry_at = 0.0
        self._fall = 0  # counts falls and resets: a retry promotes only from the fall it was made for
        self._stopped = False
        self._used = ("", "")  # device and dtype of the last answer; the engine's thread alone
        self._thread = threading.Thread(target=self._run, name="gpu-retry", daemon=True)

    # ---- for the engine ----------------------------------------------------------------------------------

    @property
    def device(self) -> str:
        """The device of the last answer."""
        return self._used[0] or self._model.device

    @property
    def dtype(self) -> str:
        return self._used[1] or self._model.dtype

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> list[Scores]:
        """As the model's own. Raises OutOfMemory only after the last step."""
        done: list[Scores] = []  # answers of one step are kept for the next
        shortage: OutOfMemory | None = None
        with self._moving:
            self._make_room()
            for step in self._steps(len(pairs)):
                if shortage is not None:
                    self._report(step.name, shortage)
                shortage = self._try(step, pairs, done, cancel_point)
                if shortage is None:
                    return done
        assert shortage is not None
        self._report("none left", shortage)
        raise shortage

    def _report(self, step: str, shortage: OutOfMemory) -> None:
        _log.warning("MEMORY | RUNG=%s | DEVICE=%s | MSG=%s", step, self._model.device, shortage.message)
        self._events.out_of_memory(step)

    # ---- for the supervisor ------------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait: float = 2.0) -> bool:
        """True when no retry runs any more."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
        if self._thread.ident is not None:
            self._thread.join(wait)
        return not self._thread.is_alive()

    def loaded(self) -> None:
        """The model was loaded, possibly on the CPU because the GPU had no room."""
        with self._moving:
            devices = self._model.devices
            if devices and self._model.device != devices[0]:
                self._fallen(devices[0])
            else:
                self.reset()  # a computation may have fallen back while the model was loaded

    def reset(self) -> None:
        """The model is being reloaded: forget the fall."""
        with self._wake:
            self._fall += 1
            self._fallen_at = self.degraded = None
            self._failures = 0

    # ---- the steps ---------------------------------------------------------------------------------------

    def _steps(self, size: int) -> list[Step]:
        """Return the steps possible for a batch of ``size`` on the current device."""
        on_cpu = self._model.device == "cpu"
        may_move = not on_cpu and "cpu" in self._model.devices
        return [step for step in STEPS if (may_move or not step.cpu) and (size > 1 or not step.halve)]

    def _try(
        self, step: Step, pairs: Sequence[Pair], done: list[Scores], cancel_point: CancelPoint
    ) -> OutOfMemory | None:
        """Take ``step`` and judge what is not ``done``. Return the error if memory ran out again."""
        cancel_point()
        try:
            if step.cpu:
                self._fall_to_cpu()
            elif step.empty_cache:
                self._model.empty_cache()
            if step.halve:
                self._in_parts(pairs, done, cancel_point)
            else:
                self._judge(pairs[len(done) :], done, cancel_point)
            return None
        except OutOfMemory as error:
            return _without_frames(error)
        except MemoryError as error:
            shortage = OutOfMemory("The machine's memory is full.")
            shortage.__cause__ = error
            return _without_frames(shortage)

    def _in_parts(self, pairs: Sequence[Pair], done: list[Scores], cancel_point: CancelPoint) -> None:
        """Judge halves, and halves of those, down to one pair. Raises OutOfMemory for a single pair."""
        size = max(1, (len(pairs) - len(done)) // 2)
        while len(done) < len(pairs):
            try:
                self._judge(pairs[len(done) : len(done) + size], done, cancel_point)
            except OutOfMemory as error:
                if size == 1:
                    raise
                _without_frames(error)
                size //= 2
                self._model.empty_cache()

    def _judge(self, pairs: Sequence[Pair], done: list[Scores], cancel_point: CancelPoint) -> None:
        results = self._model.judge(pairs, cancel_point)
        self._used = (self._model.device, self._model.dtype)
        done.extend(results)

    def _make_room(self) -> None:
        """Empty the cache when the GPU is nearly full and we reserve a material part of it unused."""
        reserved, used = self._model.reserved()
        if reserved == used:
            return
        card = self._gpu_use()
        if card is None or card[0] <= CROWDED * card[1] or reserved - used < MATERIAL * card[1]:
            return
        _log.info("CACHE_EMPTIED | UNUSED=%d | USED=%d | TOTAL=%d", reserved - used, *card)
        self._model.empty_cache()

    def _fall_to_cpu(self) -> None:
        gpu = self._model.device
        self._model.move("cpu")
        self._fallen(gpu)

    def _fallen(self, gpu: str) -> None:
        """The model is on the CPU in place of ``gpu``: schedule a retry and report it. Needs _moving."""
        with self._wake:
            now = self._clock()
            self._failures = 0 if now - self._promoted_at >= SETTLED else self._failures + 1
            self._fall += 1
            self._fallen_at, self.degraded = now, f"computing on the CPU: the memory of {gpu} is full"
            pause = self._pauses.after(self._failures)
            self._retry_at = now + pause
            self._wake.notify_all()
        _log.warning("DEGRADED | FROM=%s | TO=cpu | TRIAL_IN=%gs", gpu, pause)
        self._events.moved(gpu, "cpu")

    # ---- back to the GPU ---------------------------------------------------------------------------------

    def due_in(self, now: float) -> float | None:
        """Seconds until the next retry; None while the model has not fallen back."""
        with self._wake:
            return None if self._fallen_at is None else max(0.0, self._retry_at - now)

    def retry_gpu(self) -> bool:
        """Ask the GPU a small question and move the model back if it answers. Never touches a request."""
        with self._wake:
            fall, fallen_at = self._fall, self._fallen_at
        devices = self._model.devices
        if fallen_at is None or not devices:
            return False
        gpu = devices[0]
        try:
            self._model.judge_on(gpu, [self._sample()])
        except DeviceLost as error:
            self._on_fatal(error)
            return False
        except (ServiceError, MemoryError) as error:
            _clear(error)
            return self._still_full(gpu, fall, error)
        return self._promote(gpu, fall, fallen_at)

    def _still_full(self, gpu: str, fall: int, error: Exception) -> bool:
        self._model.release(gpu)  # leaves the memory to others until the next retry
        with self._wake:
            if fall != self._fall:
                return False
            self._failures += 1
            pause = self._pauses.after(self._failures)
            self._retry_at = self._clock() + pause
        message = error.message if isinstance(error, ServiceError) else type(error).__name__
        _log.info("TRIAL | DEVICE=%s | OUTCOME=failed | MSG=%s | NEXT_IN=%gs", gpu, message, pause)
        return False

    def _promote(self, gpu: str, fall: int, fallen_at: float) -> bool:
        with self._moving:
            with self._wake:
                if fall != self._fall:
                    return False
                try:
                    self._model.move(gpu)
                except NotReady:  # a reload has just begun
                    return False
                self._fallen_at = self.degraded = None
                self._promoted_at = self._clock()
                seconds = self._promoted_at - fallen_at
            _log.info("PROMOTED | DEVICE=%s | DEGRADED_FOR=%.1fs", gpu, seconds)
            self._events.moved("cpu", gpu)
        self._model.release("cpu")
        return True

    def _run(self) -> None:
        while True:
            wait = self.due_in(self._clock())
            if wait == 0.0:
                try:
                    self.retry_gpu()
                except Exception as error:  # one bug must not end all retries
                    _log.error("TRIAL | ERROR=%s", type(error).__name__, exc_info=True)
                    with self._wake:
                        self._retry_at = self._clock() + self._pauses.longest
            with self._wake:
                if self._stopped:
                    return
                if wait != 0.0:
                    self._wake.wait(min(wait, 5.0) if wait is not None else 5.0)


def _without_frames(error: OutOfMemory) -> OutOfMemory:
    _clear(error)
    return error


def _clear(error: BaseException | None) -> None:
    """Drop what the frames of an error refer to: the tensors among them hold the memory that is missing."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__

"""What is done when memory runs out: steps that each give up a little more, but never the answer.

``STEPS`` holds them as data. A request that runs out of memory goes down step by step until one answers.
From the last two the model stays on the CPU, so that the next requests need not fall first: first with the
weights left on the GPU, which a passing lack of memory soon lets work again, then with them given back. While
it is there, a thread of its own tries the GPU with a small question, off the request path and after growing
pauses, and the model is promoted back when that is answered.

Only the engine's thread calls ``judge``; the trials' thread calls ``trial``. A promotion waits until no
judge is under way, so that an answer always comes from one device and says which.
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
from service.contract.events import UNOBSERVED, Observer
from service.contract.protocols import CancelPoint, MultiDevice
from service.contract.request import Pair

Scores = Mapping[str, float]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do before the next try."""

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
SETTLED: Final = 60.0  # seconds on the GPU after which the pauses between trials begin small again


@dataclass(frozen=True, slots=True)
class Pauses:
    """Seconds before the first trial, and at most: they double from trial to trial."""

    first: float = 5.0
    longest: float = 300.0

    def after(self, failures: int) -> float:
        return float(min(self.longest, self.first * 2 ** min(failures, 30)))


class MemoryFallback:
    """A Predictor that answers whatever the GPU's memory does, as long as the machine's own suffices."""

    def __init__(
        self,
        model: MultiDevice,
        sample: Callable[[], Pair],
        *,
        pauses: Pauses | None = None,
        gpu_use: Callable[[], tuple[int, int] | None] = lambda: None,
        on_fatal: Callable[[ServiceError], None] = lambda error: None,
        observer: Observer = UNOBSERVED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """
        Args:
            sample: a prepared pair that a trial asks.
            gpu_use: used and total bytes of the GPU, other processes included, from kept figures.
            on_fatal: told when a trial finds the device lost.
        """
        self._model = model
        self._sample = sample
        self._pauses = pauses or Pauses()
        self._gpu_use = gpu_use
        self._on_fatal = on_fatal
        self._observer = observer
        self._clock = clock
        # Held while the model is moved and while that is logged and counted, so that the last report is the
        # truth; also by a judge. Taken before _wake.
        self._placing = threading.Lock()
        self._wake = threading.Condition()  # guards everything below
        self._fallen_at: float | None = None  # on the CPU since, in place of a GPU
        self._degraded: str | None = None  # in words; one reference, read without the lock
        self._promoted_at = -float("inf")
        self._failures = 0
        self._trial_at = 0.0
        self._fall = 0  # counts falls and resets: a trial promotes only from the fall it was made for
        self._stopped = False
        self._used = ("", "")  # where and how the last answer was computed; the engine's thread alone
        self._thread = threading.Thread(target=self._run, name="gpu-trials", daemon=True)

    # ---- for the engine ----------------------------------------------------------------------------------

    @property
    def device(self) -> str:
        """Where the last answer was computed."""
        return self._used[0] or self._model.device

    @property
    def dtype(self) -> str:
        return self._used[1] or self._model.dtype

    @property
    def degraded(self) -> str | None:
        """Why the model is not on the device that it was meant for; None when it is there."""
        return self._degraded

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> list[Scores]:
        """As the model's own; raises OutOfMemory only when the last step has no memory either."""
        done: list[Scores] = []  # what one step has answered stays answered on the next
        shortage: OutOfMemory | None = None
        with self._placing:
            self._make_room()
            for step in self._steps(len(pairs)):
                if shortage is not None:
                    self._tell(step.name, shortage)
                shortage = self._try(step, pairs, done, cancel_point)
                if shortage is None:
                    return done
        assert shortage is not None
        self._tell("none left", shortage)
        raise shortage

    def _tell(self, step: str, shortage: OutOfMemory) -> None:
        _log.warning("MEMORY | RUNG=%s | DEVICE=%s | MSG=%s", step, self._model.device, shortage.message)
        self._observer.out_of_memory(step)

    # ---- for the application -----------------------------------------------------------------------------

    def start(self) -> None:
        self._thread.start()

    def stop(self, wait: float = 2.0) -> bool:
        """True when no trial is under way any more."""
        with self._wake:
            self._stopped = True
            self._wake.notify_all()
        if self._thread.ident is not None:
            self._thread.join(wait)
        return not self._thread.is_alive()

    def loaded(self) -> None:
        """The model was loaded: on another device than the one it was meant for, if that had no room."""
        with self._placing:
            devices = self._model.devices
            if devices and self._model.device != devices[0]:
                self._fallen(devices[0])
            else:
                self.reset()  # an answer that was under way may have fallen while it was loaded

    def reset(self) -> None:
        """The model is being loaded again: forget what was known of its devices."""
        with self._wake:
            self._fall += 1
            self._fallen_at = self._degraded = None
            self._failures = 0

    # ---- the steps ---------------------------------------------------------------------------------------

    def _steps(self, size: int) -> list[Step]:
        """The steps that there are for a batch of ``size`` where the model is now."""
        on_cpu = self._model.device == "cpu"
        may_move = not on_cpu and "cpu" in self._model.devices
        return [step for step in STEPS if (may_move or not step.cpu) and (size > 1 or not step.halve)]

    def _try(
        self, step: Step, pairs: Sequence[Pair], done: list[Scores], cancel_point: CancelPoint
    ) -> OutOfMemory | None:
        """Answer what is not ``done`` yet in the way of ``step``; the shortage, if that ended it."""
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
            return _forgotten(error)
        except MemoryError as error:
            shortage = OutOfMemory("The machine's memory is full.")
            shortage.__cause__ = error
            return _forgotten(shortage)

    def _in_parts(self, pairs: Sequence[Pair], done: list[Scores], cancel_point: CancelPoint) -> None:
        """Halves, and halves of those, down to one pair. Raises OutOfMemory for a single pair."""
        size = max(1, (len(pairs) - len(done)) // 2)
        while len(done) < len(pairs):
            try:
                self._judge(pairs[len(done) : len(done) + size], done, cancel_point)
            except OutOfMemory as error:
                if size == 1:
                    raise
                _forgotten(error)
                size //= 2
                self._model.empty_cache()

    def _judge(self, pairs: Sequence[Pair], done: list[Scores], cancel_point: CancelPoint) -> None:
        results = self._model.judge(pairs, cancel_point)
        self._used = (self._model.device, self._model.dtype)
        done.extend(results)

    def _make_room(self) -> None:
        """Empty the cache when the GPU is crowded and a material part of it is ours to give back."""
        reserved, used = self._model.reserved()
        if reserved == used:
            return
        card = self._gpu_use()
        if card is None or card[0] <= CROWDED * card[1] or reserved - used < MATERIAL * card[1]:
            return
        _log.info("MEMORY | CACHE_EMPTIED | UNUSED=%d | USED=%d | TOTAL=%d", reserved - used, *card)
        self._model.empty_cache()

    def _fall_to_cpu(self) -> None:
        home = self._model.device
        self._model.move("cpu")
        self._fallen(home)

    def _fallen(self, home: str) -> None:
        """The model is on the CPU now, in place of ``home``: plan the way back and report it. Called with
        _placing held."""
        with self._wake:
            now = self._clock()
            self._failures = 0 if now - self._promoted_at >= SETTLED else self._failures + 1
            self._fall += 1
            self._fallen_at, self._degraded = now, f"computing on the CPU: the memory of {home} is full"
            pause = self._pauses.after(self._failures)
            self._trial_at = now + pause
            self._wake.notify_all()
        _log.warning("DEGRADED | FROM=%s | TO=cpu | TRIAL_IN=%gs", home, pause)
        self._observer.moved(home, "cpu")

    # ---- the way back ------------------------------------------------------------------------------------

    def due_in(self, now: float) -> float | None:
        """Seconds until the next trial; None while there is nothing to try."""
        with self._wake:
            return None if self._fallen_at is None else max(0.0, self._trial_at - now)

    def trial(self) -> bool:
        """Ask the GPU a small question; back to it if it answers. Never touches a request."""
        with self._wake:
            fall, fallen_at = self._fall, self._fallen_at
        devices = self._model.devices
        if fallen_at is None or not devices:
            return False
        home = devices[0]
        try:
            self._model.judge_on(home, [self._sample()])
        except DeviceLost as error:
            self._on_fatal(error)
            return False
        except (ServiceError, MemoryError) as error:
            _clear(error)
            return self._still_full(home, fall, error)
        return self._promote(home, fall, fallen_at)

    def _still_full(self, home: str, fall: int, error: Exception) -> bool:
        self._model.release(home)  # room for whoever needs it, and a clean start for the next trial
        with self._wake:
            if fall != self._fall:
                return False
            self._failures += 1
            pause = self._pauses.after(self._failures)
            self._trial_at = self._clock() + pause
        message = error.message if isinstance(error, ServiceError) else type(error).__name__
        _log.info("TRIAL | DEVICE=%s | OUTCOME=failed | MSG=%s | NEXT_IN=%gs", home, message, pause)
        return False

    def _promote(self, home: str, fall: int, fallen_at: float) -> bool:
        with self._placing:
            with self._wake:
                if fall != self._fall:
                    return False
                try:
                    self._model.move(home)
                except NotReady:  # it is being loaded anew at this moment
                    return False
                self._fallen_at = self._degraded = None
                self._promoted_at = self._clock()
                seconds = self._promoted_at - fallen_at
            _log.info("PROMOTED | DEVICE=%s | DEGRADED_FOR=%.1fs", home, seconds)
            self._observer.moved("cpu", home)
        self._model.release("cpu")
        return True

    def _run(self) -> None:
        while True:
            wait = self.due_in(self._clock())
            if wait == 0.0:
                try:
                    self.trial()
                except Exception as error:  # the way back must not be lost to one mistake
                    _log.error("TRIAL | ERROR=%s", type(error).__name__, exc_info=True)
                    with self._wake:
                        self._trial_at = self._clock() + self._pauses.longest
            with self._wake:
                if self._stopped:
                    return
                if wait != 0.0:
                    self._wake.wait(min(wait, 5.0) if wait is not None else 5.0)


def _forgotten(error: OutOfMemory) -> OutOfMemory:
    _clear(error)
    return error


def _clear(error: BaseException | None) -> None:
    """Let go of what the frames of an error hold: the tensors among them are the memory that is missing."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__

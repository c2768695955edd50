"""Fakes of the engine's collaborators, and a manual clock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest
from PIL import Image

from service.contract.errors import OutOfMemory, ServiceError
from service.contract.events import Listener, Stage
from service.contract.protocols import CancelPoint, Listed
from service.contract.request import Pair, Request, RequestTiming, Source, Verdict
from service.inference.engine import Engine, Limits

YES = {"Yes": 0.9, "No": 0.06, "Maybe": 0.04}
NO = {"Yes": 0.1, "No": 0.7, "Maybe": 0.2}
PATIENCE = 60.0  # seconds; a bound for a failed run


def until(condition: Callable[[], bool]) -> None:
    """Wait until the condition is true; fail the test on timeout."""
    give_up = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < give_up, "it never came true"
        time.sleep(0.002)


def go_on() -> None:
    """A cancel point that never cancels."""


class Clock:
    """A monotonic clock that the test advances."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def move(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


class FakePredictor:
    """Answer at once, or run ``behave`` with the pairs and the cancel point."""

    def __init__(
        self, behave: Callable[[Sequence[Pair], CancelPoint], Sequence[Mapping[str, float]]] | None = None
    ):
        self.behave = behave
        self.seen: list[str] = []
        self.device = "cpu"
        self.dtype = "fp32"
        self.takes_premise: bool | None = None
        self.language: str | None = "en"
        self.loaded_from: Path | None = None

    def load(self, folder: Path) -> None:
        self.loaded_from = folder

    def side(self) -> int:
        return 16

    def gpu(self) -> tuple[str, int, int] | None:
        return None

    def close(self) -> None:
        self.loaded_from = None

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        self.seen.extend(pair.hypothesis for pair in pairs)
        cancel_point()
        if self.behave is not None:
            return self.behave(pairs, cancel_point)
        return [YES for _ in pairs]


class FakeConvertingModel(FakePredictor):
    """A converting model without files; ``sound`` is the result of a full check."""

    sound = True

    def keep_converted(self, cancel_point: CancelPoint, listed: Listed) -> None:
        cancel_point()

    def verify_converted(self, folder: Path, cancel_point: CancelPoint, listed: Listed) -> bool:
        cancel_point()
        return self.sound


class FakeGpuModel(FakePredictor):
    """A multi-device model; ``room(device, pairs)`` says whether the memory suffices.

    ``events`` records memory operations; ``crowd`` is the reserved and used memory of the process.
    """

    def __init__(self, room: Callable[[str, int], bool] = lambda device, size: True) -> None:
        super().__init__()
        self.room = room
        self.device = "cuda:0"
        self.devices = ("cuda:0", "cpu")
        self.events: list[str] = []
        self.crowd = (0, 0)

    def load(self, folder: Path) -> None:
        super().load(folder)
        self.device = "cuda:0"

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        self._demand(self.device, len(pairs))
        return super().judge(pairs, cancel_point)

    def move(self, device: str) -> None:
        self.events.append(f"move {device}")
        self.device = device

    def judge_on(self, device: str, pairs: Sequence[Pair]) -> Sequence[Mapping[str, float]]:
        self._demand(device, len(pairs))
        return [YES for _ in pairs]

    def release(self, device: str) -> None:
        self.events.append(f"release {device}")

    def empty_cache(self) -> None:
        self.events.append("empty cache")
        self.crowd = (self.crowd[1], self.crowd[1])

    def reserved(self) -> tuple[int, int]:
        return self.crowd

    def _demand(self, device: str, size: int) -> None:
        if not self.room(device, size):
            raise OutOfMemory(f"The memory of {device} is full.")


class Gate:
    """A computation that blocks until opened; with ``listens`` it passes cancel points."""

    def __init__(self, *, listens: bool = True, scores: Mapping[str, float] = YES) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.left = threading.Event()
        self.listens = listens
        self.scores = scores

    def __call__(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        self.entered.set()
        try:
            while not self.opened.wait(0.005):
                if self.listens:
                    cancel_point()
            return [self.scores for _ in pairs]
        finally:
            self.left.set()


class FakeEvents(Listener):
    """Record events as (event, request id, detail)."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str, str]] = []
        self.batches: list[int] = []
        self.returned: list[list[str]] = []  # ids of pre-empted rows
        self.timings: dict[str, RequestTiming] = {}
        self.written = threading.Condition()

    def _write(self, event: str, request_id: str, detail: str) -> None:
        with self.written:
            self.lines.append((event, request_id, detail))
            self.written.notify_all()

    def wait_for(self, event: str, count: int = 1) -> list[tuple[str, str, str]]:
        def found() -> list[tuple[str, str, str]]:
            return [line for line in self.lines if line[0] == event]

        with self.written:
            assert self.written.wait_for(lambda: len(found()) >= count, PATIENCE), self.lines
            return found()

    def refused(self, request: Request, error: ServiceError, seconds: float) -> None:
        self._write("refused", request.id, error.code)

    def batched(self, requests: Sequence[Request]) -> None:
        self.batches.append(len(requests))

    def preempted(self, requests: Sequence[Request]) -> None:
        self.returned.append([request.id for request in requests])

    def ended(
        self, request: Request, verdict: Verdict, timing: RequestTiming, stage: Stage | None = None
    ) -> None:
        self.timings[request.id] = timing
        if stage is None:
            self._write("ended", request.id, verdict.reason or verdict.label)
        else:
            self._write("timed_out", request.id, stage)

    def late(self, request: Request, outcome: str, seconds: float) -> None:
        self._write("late", request.id, outcome)

    def not_cancelling(self, requests: Sequence[Request], seconds: float) -> None:
        self._write("not_cancelling", requests[0].id, "")

    def hung(self, requests: Sequence[Request], seconds: float) -> None:
        self._write("hung", requests[0].id, "")

    def broken(self, what: str, error: BaseException) -> None:
        self._write("broken", "", type(error).__name__)


PICTURE = Image.new("RGB", (8, 6), (200, 10, 10))


@pytest.fixture
def events() -> FakeEvents:
    return FakeEvents()


def ask(
    name: str, *, now: float = 1000.0, limit: float = 15.0, text: str | None = None, source: Source = "api"
) -> Request:
    return Request(name, Pair(PICTURE, name if text is None else text), now, now + limit, source)


def still(predictor: FakePredictor, events: FakeEvents, clock: Clock, **limits: float) -> Engine:
    """An engine without threads: the test calls step() and tick()."""
    return Engine(predictor, events, Limits(**limits), clock=clock)  # type: ignore[arg-type]


def now(name: str, *, limit: float = 600.0, **more: str) -> object:
    """Return a request that arrives now by the real clock."""
    return ask(name, now=time.monotonic(), limit=limit, **more)  # type: ignore[arg-type]


class Sizes(FakePredictor):
    """Record the batches; a pair with an error in ``spoils`` fails its whole batch."""

    def __init__(self, **spoils: Exception) -> None:
        super().__init__()
        self.batches: list[str] = []
        self.spoils = spoils

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        cancel_point()
        names = [pair.hypothesis for pair in pairs]
        self.batches.append("".join(names))
        for name in names:
            if name in self.spoils:
                raise self.spoils[name]
        return [NO if name.isupper() else YES for name in names]


def answers(futures: Mapping[str, Future[Verdict]]) -> dict[str, str]:
    return {name: future.result(0).reason or future.result(0).label for name, future in futures.items()}


def submit(engine: Engine, names: str, **more: float) -> dict[str, Future[Verdict]]:
    return {name: engine.submit(ask(name, **more)) for name in names}  # type: ignore[arg-type]


def drain(engine: Engine) -> None:
    while engine.step():
        pass


def end(engine: Engine) -> None:
    """Stop an engine completely; one call waits only as long as its limits allow."""
    until(lambda: engine.stop(0.0))

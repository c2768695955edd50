"""What background rows cost a caller: its latency without and with them, and how fast they are computed."""

from __future__ import annotations

import math
import random
import threading
import time
from typing import Any, Final

from lab.bench.cases import photograph, sentence
from lab.bench.load import LONG, Adapter
from lab.bench.sides import Subject
from lab.bench.timing import Spread, ratio, timed
from ofa.precision import name_of
from service.contract.events import NO_EVENTS
from service.contract.request import Pair, Request, Source, VerdictFuture
from service.inference.engine import Engine
from service.inference.jobs import Limits

PAUSES: Final = (0.0, 1.0, 4.0)  # a caller's mean pause between two requests, in times of a request
PER_PICTURE: Final = 4  # background rows about one picture
WAITING: Final = 64  # background rows that are kept in the engine
PICTURES: Final = 8


class Rows:
    """Keeps WAITING background rows in the engine while ``with`` lasts, and counts their answers."""

    def __init__(self, caller: _Caller) -> None:
        self._caller = caller
        self._room = threading.Semaphore(WAITING)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._futures: set[VerdictFuture] = set()
        self.answered = 0

    def __enter__(self) -> Rows:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._room.release()
        self._thread.join()
        for future in tuple(self._futures):
            future.cancel()
        self._caller.wait_idle()

    def _run(self) -> None:
        number = 0
        while not self._stopped.is_set():
            self._room.acquire()
            future = self._caller.submit(number // PER_PICTURE, number, "batch")
            self._futures.add(future)
            future.add_done_callback(self._done)
            number += 1

    def _done(self, future: Any) -> None:
        self._futures.discard(future)
        self.answered += not future.cancelled()
        self._room.release()


class _Caller:
    """Asks the engine about pictures in the model's size."""

    def __init__(self, engine: Engine, side: int) -> None:
        self._engine = engine
        self._pictures = [photograph(seed, side, side) for seed in range(PICTURES)]

    def submit(self, picture: int, number: int, source: Source = "api") -> VerdictFuture:
        now = time.monotonic()
        pair = Pair(self._pictures[picture % PICTURES], sentence(number))
        deadline = math.inf if source == "batch" else now + LONG
        return self._engine.submit(Request(f"bench-{number}", pair, now, deadline, source))

    def wait_idle(self) -> None:
        while self._engine.activity().running:
            time.sleep(0.001)

    def ask(self, count: int, pause: float, seed: int) -> list[float]:
        """Return the seconds of ``count`` requests, with random pauses of ``pause`` seconds on average."""
        dice, spent = random.Random(seed), []
        for number in range(count):
            time.sleep(dice.expovariate(1 / pause) if pause else 0.0)
            began = time.monotonic()
            if (reason := self.submit(number, number).result(LONG).reason) is not None:
                raise RuntimeError(f"a request failed while measuring: {reason}")
            spent.append(time.monotonic() - began)
        return spent


def background(subject: Subject) -> dict[str, Any]:
    """Measure one caller through the engine, in turns without and with rows that are always waiting."""
    engine = Engine(
        Adapter(subject.fast, subject.device, name_of(subject.fast.dtype)), NO_EVENTS, Limits(timeout=LONG)
    )
    caller = _Caller(engine, subject.fast.task.patch_image_size)
    engine.start()
    try:
        caller.ask(3, 0.0, 0)  # warm up
        one = Spread([timed(lambda: caller.ask(1, 0.0, 0), subject.device) for _ in range(5)]).median
        levels = [_level(subject, engine, caller, pause, pause * one) for pause in PAUSES]
    finally:
        engine.stop(0.0)
    return {"side": subject.low_name, "waiting": WAITING, "levels": levels}


def _level(subject: Subject, engine: Engine, caller: _Caller, pause: float, seconds: float) -> dict[str, Any]:
    turns, count = (2, 5) if subject.quick else (4, 25)
    alone: list[float] = []
    beside: list[float] = []
    rows, with_rows, before = 0, 0.0, _preempted(engine)
    for turn in range(turns):
        alone += caller.ask(count, seconds, turn)
        with Rows(caller) as feed:
            began = time.monotonic()
            beside += caller.ask(count, seconds, turn)
            with_rows += time.monotonic() - began
            rows += feed.answered
    return {
        "pause": pause,
        "alone": Spread(alone).as_dict(),
        "beside": Spread(beside).as_dict(),
        "ratio_p50": ratio(Spread(beside).median, Spread(alone).median),
        "ratio_p95": ratio(Spread(beside).p95, Spread(alone).p95),
        "rows_per_second": round(rows / with_rows, 3),
        "preempted": _preempted(engine) - before,
    }


def _preempted(engine: Engine) -> int:
    return engine.activity().counts.get("preempted", 0)

"""Throughput and latency through the engine with 1 to 64 callers in a closed loop."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Any, Final

from PIL import Image

from lab.bench.cases import photograph, sentence
from lab.bench.machine import card_memory, matrix_peaks
from lab.bench.sides import PICTURES, Judge, Subject
from lab.bench.stages import count_operations
from lab.bench.timing import Spread, ratio
from ofa.model import EntailmentModel
from ofa.precision import name_of
from service.contract.events import NO_EVENTS
from service.contract.protocols import CancelPoint
from service.contract.request import Pair, Request, Verdict
from service.inference.engine import Engine
from service.inference.jobs import Limits

CALLERS: Final = (1, 2, 4, 8, 16, 32, 64)
BATCHES: Final = (1, 2, 4, 8, 16)
LONG: Final = 3600.0  # seconds; no request runs into its deadline


class Adapter:
    """Our model behind the engine's protocol."""

    def __init__(self, model: Judge, device: str, dtype: str) -> None:
        self._model = model
        self.device = device
        self.dtype = dtype
        self.sizes: list[int] = []

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        self.sizes.append(len(pairs))
        return self._model.judge(pairs, cancel_point)


def load(
    subject: Subject, numbers: Sequence[int] | None = None, model: EntailmentModel | None = None
) -> dict[str, Any]:
    """Measure each number of callers with the engine's own batch sizes, and ModelScope one by one, since its
    batches fail. ``model``: instead of the subject's fast one."""
    numbers = numbers or (CALLERS[:3] if subject.quick else CALLERS)
    levels = [_level(subject, callers, _requests(subject, callers), model) for callers in numbers]
    peak = matrix_peaks(subject.device, subject.quick)[subject.low_name]
    operations = count_operations(subject.fast)["whole"]
    result: dict[str, Any] = {
        "side": subject.low_name,
        "gflop_per_request": round(operations / 1e9, 1),
        "peak_gflops": round(peak / 1e9),
    }
    one_by_one = _reference_rate(subject)
    if one_by_one is not None:
        result["reference_per_second"] = round(one_by_one, 3)
    for level in levels:
        level["share_of_peak"] = round(level["per_second"] * operations / peak, 3)
        if one_by_one is not None:
            level["ratio"] = ratio(level["per_second"], one_by_one)
    return {**result, "levels": levels}


def _reference_rate(subject: Subject) -> float | None:
    """Return answers per second of ModelScope's pipeline; None without it."""
    if (reference := subject.reference) is None:
        return None
    asked = [(str(subject.pictures[turn % PICTURES]), sentence(turn)) for turn in range(4)]
    replies = [reference.ask("judge", picture=picture, text=text) for picture, text in asked]
    return 1.0 / Spread([float(reply["seconds"]) for reply in replies[1:]]).median


def batches(subject: Subject) -> dict[str, Any]:
    """Measure eight callers with different batch limits; the default limit is chosen from this."""
    sizes = BATCHES[:3] if subject.quick else BATCHES
    callers = 4 if subject.quick else 64 if subject.device.startswith("cuda") else 8
    return {
        "side": subject.low_name,
        "callers": callers,
        "levels": [
            {"max_batch": size, **_level(subject, callers, _requests(subject, callers), max_batch=size)}
            for size in (*sizes, *((32, 64) if callers == 64 else ()))
        ],
    }


def _requests(subject: Subject, callers: int) -> int:
    """Return how many requests give a steady state within about half a minute."""
    if subject.device.startswith("cuda"):
        return max(200, 20 * callers)
    return max(6 if subject.quick else 12, callers * (1 if callers > 16 else 2))


def _level(
    subject: Subject, callers: int, requests: int, model: EntailmentModel | None = None, **limits: int
) -> dict[str, Any]:
    """Let ``callers`` share ``requests``, with pictures in the model's size, as in the engine's queue."""
    adapter = Adapter(model or subject.fast, subject.device, name_of(subject.fast.dtype))
    engine = Engine(adapter, NO_EVENTS, Limits(queue_size=10_000, **limits))
    side = subject.fast.task.patch_image_size
    pictures = [photograph(seed, side, side) for seed in range(8)]
    engine.start()
    try:
        _ask(engine, pictures[0], 0).result(LONG)  # warm up before the first measurement
        adapter.sizes.clear()
        with card_memory(subject.device) as memory:
            latencies, seconds = _drive(engine, pictures, callers, requests)
    finally:
        engine.stop(0.0)
    spread = Spread(latencies)
    return {
        "callers": callers,
        "requests": requests,
        "per_second": round(requests / seconds, 3),
        "p50": round(spread.median, 4),
        "p95": round(spread.p95, 4),
        "mean": round(sum(latencies) / len(latencies), 4),
        "mean_batch": round(sum(adapter.sizes) / len(adapter.sizes), 2),
        **memory,
    }


def _drive(
    engine: Engine, pictures: Sequence[Image.Image], callers: int, requests: int
) -> tuple[list[float], float]:
    """Return the seconds of each request and of all together."""
    left = iter(range(requests))
    lock = threading.Lock()  # guards `left` and `latencies`
    latencies: list[float] = []

    def caller() -> None:
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                return
            began = time.monotonic()
            verdict = _ask(engine, pictures[number % len(pictures)].copy(), number).result(LONG)
            if verdict.reason is not None:
                raise RuntimeError(f"a request failed while measuring: {verdict.reason}")
            with lock:
                latencies.append(time.monotonic() - began)

    threads = [threading.Thread(target=caller) for _ in range(callers)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(latencies) != requests:
        raise RuntimeError(f"only {len(latencies)} of {requests} requests were answered")
    return latencies, time.monotonic() - began


def _ask(engine: Engine, picture: Image.Image, number: int) -> Future[Verdict]:
    now = time.monotonic()
    return engine.submit(Request(f"bench-{number}", Pair(picture, sentence(number)), now, now + LONG))

"""The guard's fp32 weights over a real small network: read on first need beside the engine, real faults."""

from __future__ import annotations

import resource
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from lab.parity.folders import SMALL, write_folder
from ofa.model import EntailmentModel
from service.contract.errors import InferenceError
from service.contract.protocols import Deferring
from service.contract.request import Pair
from service.inference.late_loading import RETRY, LateLoader
from service.inference.native import NativePredictor
from tests.applications import Build
from tests.fakes import Clock, go_on, until

PICTURE = Image.new("RGB", (64, 64), (200, 10, 10))
PAIRS = [Pair(PICTURE, text) for text in ("a", "a red circle")]
Loads = list[torch.dtype]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"), SMALL["defaults-resnet18"])


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights lead by little: with this margin every verdict of theirs is a close call."""
    monkeypatch.setattr("ofa.precision.MARGINS", {"bf16": 1e9, "fp32": 0.0})


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Loads, threading.Event]]:
    """The formats that were loaded, and an event that loads of fp32 wait for."""
    loads: Loads = []
    opened = threading.Event()
    load = EntailmentModel.load.__func__  # type: ignore[attr-defined]

    def gated(
        cls: type, folder: Path, device: str, dtype: torch.dtype, cache: Path | None = None
    ) -> EntailmentModel:
        loads.append(dtype)
        if dtype == torch.float32:
            assert opened.wait(60.0)
        return load(cls, folder, device, dtype, cache)

    monkeypatch.setattr(EntailmentModel, "load", classmethod(gated))
    yield loads, opened
    opened.set()


class Deferred:
    """A bf16 model with its guard, whose fp32 weights are loaded later; ``ends`` counts the loads."""

    def __init__(self, folder: Path, clock: Clock) -> None:
        self.ends = 0
        self.model = NativePredictor(device="cpu", dtype="bf16")
        assert isinstance(self.model, Deferring)
        self.loader = LateLoader(self._ready, clock)
        self.model.defer(self.loader.begin)
        self.model.load(folder)

    def _ready(self) -> None:
        self.ends += 1

    def judge(self) -> list[dict[str, float] | None]:
        return list(self.model.judge(PAIRS, go_on))


@pytest.fixture(scope="module")
def exact(folder: Path) -> list[dict[str, float]]:
    return EntailmentModel.load(folder).judge(PAIRS)


def test_a_close_call_has_no_answer_until_the_exact_weights_are_there(
    folder: Path, exact: list[dict[str, float]], clock: Clock, gate: tuple[Loads, threading.Event]
) -> None:
    loads, opened = gate
    deferred = Deferred(folder, clock)
    for _ in range(3):
        assert deferred.judge() == [None, None]
    assert loads == [torch.bfloat16, torch.float32], "one load, however many need it"
    opened.set()
    until(lambda: deferred.ends == 1)
    assert deferred.judge() == exact
    assert deferred.model.guard_counts() == (2, {"fp32": 2})
    deferred.model.close()


def test_a_missing_file_is_an_error_of_the_close_call_and_its_return_heals(
    folder: Path, exact: list[dict[str, float]], tmp_path: Path, clock: Clock
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    deferred = Deferred(copy, clock)
    weights, aside = copy / "pytorch_model.bin", tmp_path / "aside"
    weights.rename(aside)
    assert deferred.judge() == [None, None]
    until(lambda: deferred.ends == 1)
    for _ in range(2):
        with pytest.raises(InferenceError):
            deferred.judge()
    aside.rename(weights)
    clock.move(RETRY)
    assert deferred.judge() == [None, None]
    until(lambda: deferred.ends == 2)
    assert deferred.judge() == exact
    deferred.model.close()


def test_no_memory_for_the_weights_is_an_error_of_the_close_call(
    folder: Path, exact: list[dict[str, float]], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    deferred = Deferred(folder, clock)
    load, limits = EntailmentModel.load, resource.getrlimit(resource.RLIMIT_AS)

    def crowded(*args: object) -> EntailmentModel:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize(), limits[1]))
        try:
            return load(*args)  # type: ignore[arg-type]
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)

    monkeypatch.setattr(EntailmentModel, "load", crowded)
    assert deferred.judge() == [None, None]
    until(lambda: deferred.ends == 1)
    with pytest.raises(InferenceError):
        deferred.judge()
    monkeypatch.setattr(EntailmentModel, "load", load)
    clock.move(RETRY)
    deferred.judge()
    until(lambda: deferred.ends == 2)
    assert deferred.judge() == exact
    deferred.model.close()


def test_who_judges_without_a_loader_waits(folder: Path, exact: list[dict[str, float]]) -> None:
    model = NativePredictor(device="cpu", dtype="bf16")
    model.load(folder)
    assert model.judge(PAIRS, go_on) == exact
    model.close()


def test_the_conversion_for_the_next_start_keeps_no_exact_model(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gate: tuple[Loads, threading.Event]
) -> None:
    monkeypatch.setattr("ofa.converted.WORTHWHILE", 1)
    loads, opened = gate
    opened.set()
    model = NativePredictor(device="cpu", dtype="bf16", cache=tmp_path)
    model.load(folder)
    for _ in range(2):
        model.keep_converted(go_on, lambda path: None)
    assert loads == [torch.bfloat16, torch.float32], "nothing is read for what is there"
    assert len(list(tmp_path.glob("*-float32.safetensors"))) == 1
    model.judge(PAIRS, go_on)
    assert loads == [torch.bfloat16, torch.float32, torch.float32], "it was freed after the conversion"
    model.close()


def test_a_service_is_healthy_without_the_exact_weights_and_answers_exactly_with_them(
    folder: Path, exact: list[dict[str, float]], make: Build, gate: tuple[Loads, threading.Event]
) -> None:
    loads, opened = gate
    application = make(NativePredictor(device="cpu", dtype="bf16"), lambda *args, **more: folder)
    application.supervisor.start(pictures=False)
    until(lambda: application.report().healthy)
    assert loads == [torch.bfloat16]
    future = application.submit(PICTURE, "a", None, source="api")
    until(lambda: torch.float32 in loads)
    before = application.snapshot().evidence.probes
    assert application.supervisor.probe_now()
    until(lambda: application.snapshot().evidence.probes > before)
    assert application.report().healthy
    assert not future.done()
    opened.set()
    assert dict(future.result(60.0).scores) == pytest.approx(exact[0], abs=1e-5)

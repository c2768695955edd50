"""Fetched and converted weights: what is hashed when, and how damage is handled."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import ofa.converted
import service.hub.manifest
from lab.instances.hub import Hub
from lab.parity.folders import SMALL, write_folder
from service.build import build
from service.contract.errors import DamagedFile
from service.contract.request import Pair
from service.hub.resolve import converted_cache, listed_checksum, resolve
from service.inference.native import NativePredictor
from service.settings import Settings
from tests.fakes import go_on, until
from tests.hub.conftest import MODEL, WEIGHTS

QUESTION = [Pair(Image.new("RGB", (64, 64), "red"), "a photo")]


@pytest.fixture
def folder(hub: Hub, cache: Path, tmp_path: Path) -> Path:
    """The local copy of a small model on the hub."""
    made = write_folder(tmp_path / "made", SMALL["scaled-shared-resnet34"])
    hub.repositories[MODEL, "master"] = {path.name: path.read_bytes() for path in made.iterdir()}
    return resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)


@pytest.fixture
def predictor(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NativePredictor]:
    """Computes in bf16, guarded by fp32: two formats of the same weights."""
    monkeypatch.setattr("ofa.converted.WORTHWHILE", 1)
    predictor = NativePredictor(device="cpu", dtype="bf16", cache=converted_cache(cache))
    yield predictor
    predictor.close()


@pytest.fixture
def listed(cache: Path) -> Callable[[Path], str | None]:
    return partial(listed_checksum, model=MODEL, cache_dir=cache)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was hashed, by its name."""
    hashed: Counter[str] = Counter()

    def counted(module: Any, function: str, name: Callable[..., str]) -> None:
        really = getattr(module, function)

        def count(*arguments: Any) -> Any:
            hashed[name(*arguments)] += 1
            return really(*arguments)

        monkeypatch.setattr(module, function, count)

    counted(ofa.converted, "_sha256", lambda path, *_: path.name)
    counted(service.hub.manifest, "_record", lambda folder, name, *_: name)
    return hashed


def hidden(path: Path) -> None:
    """Change one byte but not size and time."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def converted(cache: Path) -> set[str]:
    return {path.name for path in converted_cache(cache).glob("*.safetensors")}


def test_weights_are_hashed_once_when_they_are_converted_and_not_at_later_starts(
    folder: Path,
    predictor: NativePredictor,
    cache: Path,
    listed: Callable[[Path], str | None],
    read: Counter[str],
) -> None:
    answers, hashed = [], []
    for _ in range(2):
        predictor.load(folder)
        answers.append(predictor.judge(QUESTION, go_on))
        read.clear()
        predictor.keep_converted(go_on, listed)
        hashed.append((read[WEIGHTS], sum(read[name] for name in converted(cache))))
    assert len(converted(cache)) == 2, "one for each format"
    assert hashed == [(1, 0), (0, 0)]
    assert answers[0] == answers[1]


def test_a_service_that_starts_from_converted_weights_hashes_nothing(
    hub: Hub,
    folder: Path,
    predictor: NativePredictor,
    cache: Path,
    tmp_path: Path,
    read: Counter[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "service")
    settings = Settings(model=MODEL, cache_dir=cache, hub_endpoint=hub.endpoint, run_dir=tmp_path / "run")

    def serve() -> None:
        application = build(settings, model=predictor)
        application.supervisor.start()
        try:
            until(lambda: application.report().healthy)
            until(lambda: any(record.getMessage().startswith("SETTLED") for record in caplog.records))
        finally:
            until(lambda: application.supervisor.stop(0.0))

    for expected in (1, 0):
        read.clear()
        caplog.clear()
        serve()
        assert read[WEIGHTS] == expected
        assert not any(read[name] for name in converted(cache))


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])  # the guard of bf16 reads the file a second time
@pytest.mark.usefixtures("predictor")
def test_damaged_weights_are_found_when_they_are_converted(
    folder: Path, dtype: str, cache: Path, listed: Callable[[Path], str | None]
) -> None:
    predictor = NativePredictor(device="cpu", dtype=dtype, cache=converted_cache(cache))
    predictor.load(folder)
    predictor.judge(QUESTION, go_on)
    hidden(folder / WEIGHTS)
    with pytest.raises(DamagedFile):
        predictor.keep_converted(go_on, listed)
    predictor.close()
    assert converted(cache) == set()


@pytest.mark.parametrize("harm", [hidden, lambda path: os.truncate(path, path.stat().st_size - 1)])
def test_a_full_check_removes_a_damaged_converted_file_without_reading_the_weights_twice(
    folder: Path,
    predictor: NativePredictor,
    cache: Path,
    listed: Callable[[Path], str | None],
    harm: Callable[[Path], None],
    read: Counter[str],
) -> None:
    predictor.load(folder)
    first = predictor.judge(QUESTION, go_on)
    predictor.keep_converted(go_on, listed)
    predictor.close()
    read.clear()
    assert predictor.verify_converted(folder, go_on, listed)
    assert read[WEIGHTS] == 0
    (spoiled,) = converted_cache(cache).glob("*-bfloat16.safetensors")
    harm(spoiled)
    assert not predictor.verify_converted(folder, go_on, listed)
    assert len(converted(cache)) == 1
    assert predictor.verify_converted(folder, go_on, listed)
    predictor.load(folder)
    assert predictor.judge(QUESTION, go_on) == first

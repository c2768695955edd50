"""After the first verdict a fetched model is checked in full, and each of its files is read once for that."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from parity.folders import SMALL, write_folder
from service.hub import converted_cache, examine, resolve
from service.predictor import NativePredictor
from service.protocols import Known
from service.request import Pair
from tests.fakes import go_on
from tests.hub.conftest import MODEL, WEIGHTS
from tests.hub.server import Hub


@pytest.fixture
def folder(hub: Hub, cache: Path, tmp_path: Path) -> Path:
    """The local copy of a small model that the hub really holds."""
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
def read(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often each file was opened to be hashed, by its name."""
    opened: Counter[str] = Counter()
    really = Path.open

    def counting(path: Path, mode: str = "r", *more: Any, **options: Any) -> Any:
        if mode == "rb":
            opened[path.name] += 1
        return really(path, mode, *more, **options)

    monkeypatch.setattr(Path, "open", counting)
    return opened


def hidden(path: Path) -> None:
    """Spoil one byte and leave size and time as they were."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def fetched(cache: Path) -> Known | None:
    return examine(MODEL, cache_dir=cache)


def not_fetched(cache: Path) -> Known | None:
    return examine("demo", cache_dir=cache)


@pytest.mark.parametrize("look", [fetched, not_fetched])
def test_the_weights_are_read_once_for_the_manifest_and_both_formats(
    folder: Path,
    predictor: NativePredictor,
    cache: Path,
    read: Counter[str],
    look: Callable[[Path], Known | None],
) -> None:
    answers = []
    for mapped in (False, True):
        predictor.load(folder)
        answers.append(predictor.judge([Pair(Image.new("RGB", (64, 64), "red"), "a photo")], go_on))
        read.clear()
        known = look(cache)
        assert known is not None
        assert predictor.settle(go_on, known)
        assert read[WEIGHTS] == 1
        converted = {path.name for path in converted_cache(cache).glob("*.safetensors")}
        assert len(converted) == 2
        assert {name: read[name] for name in converted} == dict.fromkeys(converted, int(mapped))
    assert answers[0] == answers[1]


def test_a_fetched_file_that_hides_its_damage_is_found(folder: Path, cache: Path) -> None:
    assert fetched(cache) is not None
    hidden(folder / WEIGHTS)
    assert fetched(cache) is None
    assert not_fetched(cache) is not None


def test_a_source_that_changes_after_it_was_checked_is_read_again_and_found(
    folder: Path, predictor: NativePredictor, cache: Path, read: Counter[str]
) -> None:
    def settle(meanwhile: Callable[[Path], object]) -> bool:
        predictor.load(folder)
        known = fetched(cache)
        assert known is not None
        meanwhile(folder / WEIGHTS)
        read.clear()
        return predictor.settle(go_on, known)

    assert settle(lambda weights: None)
    assert settle(lambda weights: None), "mapped by now"
    assert settle(os.utime), "another time, the same content"
    assert read[WEIGHTS] == 1
    assert settle(lambda weights: None), "converted anew"
    assert not settle(lambda weights: weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f"))
    assert read[WEIGHTS] == 1

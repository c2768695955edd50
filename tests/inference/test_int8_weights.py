"""``auto`` computes in int8 once the check on the model's own weights has passed, and not before."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from ofa import int8
from ofa.model import EntailmentModel
from service.contract.errors import ShuttingDown, TransientLoadError, UnsupportedModel
from service.contract.request import Pair
from service.inference.int8_weights import BYTES
from service.inference.native import NativePredictor
from tests.fakes import go_on

DEMO = Path(__file__).resolve().parents[2] / "models" / "demo"
QUESTION = [Pair(Image.new("RGB", (64, 64), "red"), "a photo")]
pytestmark = pytest.mark.skipif(not int8.supported(), reason="the processor does not multiply int8")

Load = Callable[..., NativePredictor]


def unlisted(path: Path) -> str | None:
    return None


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Load]:
    """Load the demo model as if it were worth converting; the check takes few pairs."""
    monkeypatch.setattr("ofa.converted.WORTHWHILE", 1)
    monkeypatch.setattr("ofa.int8_check.PAIRS", 8)
    monkeypatch.setattr("ofa.int8_file._ENOUGH", 0)
    monkeypatch.setattr("service.inference.int8_weights.NICE", 0)  # other tests run beside this one
    loaded: list[NativePredictor] = []

    def load(
        dtype: str = "auto", guard: bool = True, cache: Path | None = tmp_path, **more: Any
    ) -> NativePredictor:
        predictor = NativePredictor(device="cpu", dtype=dtype, guard=guard, cache=cache, **more)
        predictor.load(DEMO)
        loaded.append(predictor)
        return predictor

    yield load
    for predictor in loaded:
        predictor.close()


def record(cache: Path) -> Path:
    (found,) = cache.glob("*-int8.json")
    return found


def test_a_passed_check_is_used_at_once_and_at_the_next_start(load: Load, tmp_path: Path) -> None:
    predictor = load()
    assert predictor.dtype != "int8", "not checked yet"
    before = predictor.dtype
    predictor.keep_converted(go_on, unlisted)
    assert predictor.dtype == before, "the format of the last answer"
    assert len(predictor.judge(QUESTION, go_on)) == 1
    assert predictor.dtype == "int8"
    written = record(tmp_path).stat().st_mtime_ns
    again = load()
    assert again.dtype == "int8"
    again.keep_converted(go_on, unlisted)
    assert record(tmp_path).stat().st_mtime_ns == written, "checked once"


def test_weights_that_did_not_pass_are_not_used_and_not_checked_again(load: Load, tmp_path: Path) -> None:
    load().keep_converted(go_on, unlisted)
    found = json.loads(record(tmp_path).read_text())
    found["check"]["changed"] = 1
    record(tmp_path).write_text(json.dumps(found))
    predictor = load()
    assert predictor.dtype != "int8"
    predictor.keep_converted(go_on, unlisted)
    assert predictor.dtype != "int8"
    assert json.loads(record(tmp_path).read_text()) == found


@pytest.mark.parametrize(("missing", "checked"), [(1, False), (0, True)])
def test_a_check_that_the_memory_does_not_allow_is_not_begun(
    tmp_path: Path, load: Load, caplog: pytest.LogCaptureFixture, missing: int, checked: bool
) -> None:
    caplog.set_level("INFO")
    needed = BYTES * sum(one.numel() for one in EntailmentModel.load(DEMO).network.parameters())
    predictor = load(memory_left=lambda: needed - missing)
    predictor.keep_converted(go_on, unlisted)
    assert ("INT8_CHECKED" in caplog.text, "INT8_NOT_CHECKED" in caplog.text) == (checked, not checked)
    assert len(list(tmp_path.glob("*-int8.json"))) == checked


def test_without_the_guard_auto_stays_as_it_is(load: Load, tmp_path: Path) -> None:
    predictor = load(guard=False)
    predictor.keep_converted(go_on, unlisted)
    assert predictor.dtype != "int8"
    assert not list(tmp_path.glob("*-int8*"))


def test_a_stop_ends_the_check(load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ofa.int8_check.PAIRS", 100_000)
    predictor, seen = load(), list[psutil.Process]()

    def stop_while_it_runs() -> None:
        seen.extend(one for one in psutil.Process().children() if "int8_child" in " ".join(one.cmdline()))
        if seen:
            raise ShuttingDown("The service is stopping.")

    with pytest.raises(ShuttingDown):
        predictor.keep_converted(stop_while_it_runs, unlisted)
    assert seen
    assert not any(one.is_running() for one in seen)
    assert not list(tmp_path.glob("*-int8*"))


def test_a_check_that_ends_without_a_result_leaves_the_format(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, before = load(), ""

    def kill_it() -> None:
        for one in psutil.Process().children():
            if "int8_child" in " ".join(one.cmdline()):
                one.kill()

    before = predictor.dtype
    with pytest.raises(TransientLoadError):
        predictor.keep_converted(kill_it, unlisted)
    assert predictor.dtype == before
    assert len(predictor.judge(QUESTION, go_on)) == 1


def test_instances_that_share_the_cache_check_once(load: Load, tmp_path: Path) -> None:
    predictor = load()
    predictor.keep_converted(go_on, unlisted)
    found, stamp = record(tmp_path), record(tmp_path).stat().st_mtime_ns
    kept = found.rename(found.with_suffix(".kept"))  # as if the other instance had not finished yet
    with found.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        def finish() -> None:
            if any("int8_child" in " ".join(one.cmdline()) for one in psutil.Process().children()):
                if kept.exists():
                    kept.rename(found)
                fcntl.flock(lock, fcntl.LOCK_UN)

        other = load()
        other.keep_converted(finish, unlisted)
    other.judge(QUESTION, go_on)
    assert other.dtype == "int8"
    assert found.stat().st_mtime_ns == stamp


def test_weights_replaced_since_the_load_are_not_mixed_in(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    monkeypatch.setattr(sys.modules[__name__], "DEMO", folder)
    predictor = load()
    os.utime(folder / "pytorch_model.bin", (1, 1))
    predictor.keep_converted(go_on, unlisted)
    predictor.judge(QUESTION, go_on)
    assert predictor.dtype != "int8"


@pytest.mark.parametrize("guard", [True, False])
def test_int8_on_request_needs_no_check(load: Load, guard: bool) -> None:
    predictor = load("int8", guard)
    assert predictor.dtype == "int8"
    assert len(predictor.judge(QUESTION, go_on)) == 1
    predictor.keep_converted(go_on, unlisted)


def test_weights_made_on_request_are_checked_for_auto(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ofa.int8_file._ENOUGH", 1)
    load("int8")
    predictor = load()
    assert predictor.dtype != "int8", "nothing was checked"
    monkeypatch.setattr("ofa.int8_file._ENOUGH", 0)
    predictor.keep_converted(go_on, unlisted)
    predictor.judge(QUESTION, go_on)
    assert predictor.dtype == "int8"


def test_a_relative_folder_is_found(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(DEMO.parent)
    monkeypatch.setattr(sys.modules[__name__], "DEMO", Path("demo"))
    assert load("int8").dtype == "int8"


def test_int8_on_request_needs_a_cache(load: Load) -> None:
    with pytest.raises(UnsupportedModel):
        load("int8", cache=None)


def test_damaged_int8_weights_are_found_and_removed(load: Load, tmp_path: Path) -> None:
    predictor = load()
    predictor.keep_converted(go_on, unlisted)
    (file,) = tmp_path.glob("*-int8.safetensors")
    with file.open("r+b") as stream:
        stream.seek(-100, 2)
        stream.write(b"\x55" * 100)
    assert not predictor.verify_converted(DEMO, go_on, unlisted)
    assert not file.exists()

"""The native predictor over a real small network with random weights, and the mapping of foreign errors."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lab.bench.gpu.tape import Tape
from lab.parity.folders import SMALL, write_folder
from ofa.errors import CheckpointError, Misfit, TextError, UnsupportedConfig
from ofa.model import EntailmentModel
from service.contract.errors import (
    ComputationStopped,
    DamagedFile,
    DeviceLost,
    DiskFull,
    InferenceError,
    InputError,
    MissingDependency,
    NotReady,
    OutOfMemory,
    ServiceError,
    TransientLoadError,
    UnsupportedModel,
)
from service.contract.protocols import Converting, MultiDevice
from service.contract.request import LABELS, Pair
from service.inference.native import NativePredictor
from service.inference.torch_errors import inference_errors, load_errors
from service.intake.image import converted
from tests.fakes import go_on

SECRET = "my private sentence"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("model"), SMALL["defaults-resnet18"])


@pytest.fixture(scope="module")
def predictor(folder: Path) -> Iterator[NativePredictor]:
    predictor = NativePredictor(device="cpu", dtype="fp32")
    predictor.load(folder)
    yield predictor
    predictor.close()


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(3).integers(0, 255, (height, width, 3), dtype=np.uint8))


def seen(predictor: NativePredictor, image: Image.Image) -> Image.Image:
    """What the model is given of a picture."""
    return converted(image, side=predictor.side(), max_pixels=10**6).image


def test_it_says_where_and_how_it_computes(predictor: NativePredictor) -> None:
    assert (predictor.device, predictor.dtype, predictor.takes_premise) == ("cpu", "fp32", None)
    assert predictor.gpu() is None


def test_a_prepared_picture_gets_the_very_same_answer_and_is_small(
    predictor: NativePredictor, folder: Path
) -> None:
    picture = noise(700, 300)
    small = seen(predictor, picture)
    side = EntailmentModel.load(folder).task.patch_image_size
    assert small.size == (side, side)
    (through_us,) = predictor.judge([Pair(small, "a red circle", "men")], go_on)
    (direct,) = EntailmentModel.load(folder).judge([Pair(picture, "a red circle", "men")])
    assert through_us == direct
    assert set(through_us) == set(LABELS)


def test_a_16_bit_picture_is_scaled_and_not_clipped(predictor: NativePredictor) -> None:
    ramp = Image.fromarray(np.linspace(0, 65535, 64 * 64, dtype=np.uint16).reshape(64, 64))
    values = np.asarray(seen(predictor, ramp))
    assert values.min() < 10
    assert 100 < values.mean() < 155
    assert values.max() > 245


def test_several_pairs_are_answered_in_order(predictor: NativePredictor) -> None:
    pairs = [Pair(seen(predictor, noise(20, 20)), text) for text in ("a", "two men on a road", "a")]
    first, second, third = predictor.judge(pairs, go_on)
    assert first == pytest.approx(third, abs=1e-6)
    assert first != pytest.approx(second, abs=1e-6)


def test_a_computation_ends_at_its_next_cancel_point(predictor: NativePredictor) -> None:
    passed = 0

    def stop_at_the_third() -> None:
        nonlocal passed
        passed += 1
        if passed == 3:
            raise ComputationStopped("Nobody waits.")

    with pytest.raises(ComputationStopped):
        predictor.judge([Pair(seen(predictor, noise(20, 20)), "a")], stop_at_the_third)
    assert passed == 3
    assert predictor.judge([Pair(seen(predictor, noise(20, 20)), "a")], go_on)


def test_explicit_bf16_is_taken(folder: Path) -> None:
    predictor = NativePredictor(device="cpu", dtype="bf16")
    predictor.load(folder)
    assert predictor.dtype == "bf16"
    (scores,) = predictor.judge([Pair(seen(predictor, noise(20, 20)), "a")], go_on)
    assert sum(scores.values()) == pytest.approx(1.0)
    predictor.close()


def test_the_number_of_threads_holds_in_the_thread_that_judges(folder: Path) -> None:
    before = torch.get_num_threads()
    try:
        NativePredictor(device="cpu", threads=1).load(folder)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_without_a_model_nothing_is_judged(folder: Path) -> None:
    predictor = NativePredictor(device="cpu")
    with pytest.raises(NotReady):
        predictor.judge([Pair(noise(2, 2), "a")], go_on)
    predictor.load(folder)
    predictor.close()
    predictor.close()
    with pytest.raises(NotReady):
        predictor.side()


@pytest.fixture
def pretended(folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A GPU that computes on the CPU, so that moving needs none; the devices that were loaded for."""
    loaded: list[str] = []
    load = EntailmentModel.load.__func__  # type: ignore[attr-defined]

    def pretend(
        cls: type, folder: Path, device: str, dtype: torch.dtype, cache: Path | None = None
    ) -> EntailmentModel:
        loaded.append(device)
        return load(cls, folder, "cpu", torch.float32 if dtype == torch.float16 else dtype, cache)

    monkeypatch.setattr(EntailmentModel, "load", classmethod(pretend))
    monkeypatch.setattr("service.inference.native._choose_device", lambda wanted: "cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a pretended GPU")
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: loaded.append("empty cache"))
    return loaded


def test_emptying_the_cache_releases_recorded_computations(folder: Path, pretended: list[str]) -> None:
    predictor = NativePredictor(dtype="fp32")
    predictor.load(folder)
    model = predictor._copies["cuda:0"][0]
    assert isinstance(model, EntailmentModel)
    model.accelerate(Tape())
    assert model._padded is not None
    for _ in range(3):
        predictor.judge([Pair(seen(predictor, noise(20, 20)), "a")], go_on)
    assert any(model._padded.graphs._kept.values())
    predictor.empty_cache()
    assert not model._padded.graphs._kept


def test_it_moves_to_the_cpu_and_back_and_answers_the_same(folder: Path, pretended: list[str]) -> None:
    predictor = NativePredictor(dtype="fp32")
    assert isinstance(predictor, MultiDevice)
    predictor.load(folder)
    assert (predictor.device, predictor.devices) == ("cuda:0", ("cuda:0", "cpu"))
    pairs = [Pair(seen(predictor, noise(20, 20)), "a")]
    (there,) = predictor.judge(pairs, go_on)
    predictor.move("cpu")
    assert predictor.device == "cpu"
    assert predictor.judge(pairs, go_on) == [there]
    assert predictor.judge_on("cuda:0", pairs) == [there]
    assert predictor.device == "cpu"
    assert pretended.count("cuda:0") == 1  # its weights were still there
    predictor.release("cuda:0")
    predictor.release("cpu")  # the one in use stays
    predictor.move("cuda:0")
    assert (predictor.device, pretended.count("cuda:0")) == ("cuda:0", 2)
    predictor.close()
    assert predictor.devices == ()
    with pytest.raises(NotReady):
        predictor.judge_on("cuda:0", pairs)


@pytest.mark.parametrize(("able", "dtype"), [({}, "fp32"), ({"amx_bf16": True}, "bf16")])
def test_in_place_of_a_gpu_the_cpu_takes_its_own_best_for_fp16(
    folder: Path,
    pretended: list[str],
    monkeypatch: pytest.MonkeyPatch,
    able: dict[str, bool],
    dtype: str,
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    predictor = NativePredictor()
    predictor.load(folder)
    assert predictor.dtype == "fp16"  # a GPU of capability 7.5 has no bf16
    predictor.move("cpu")
    assert predictor.dtype == dtype
    predictor.close()


@pytest.mark.parametrize(
    ("able", "dtype"),
    [
        ({}, "fp32"),
        ({"avx2": True, "avx512_f": True}, "fp32"),
        ({"avx512_bf16": True}, "bf16"),
        ({"amx_bf16": True}, "bf16"),
    ],
)
def test_auto_is_bf16_where_the_processor_multiplies_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, able: dict[str, bool], dtype: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: able)
    predictor = NativePredictor(device="cpu")
    predictor.load(folder)
    assert predictor.dtype == dtype
    assert (predictor.guard_counts() is None) == (dtype == "fp32")
    predictor.close()


def test_the_guard_decides_close_calls_in_fp32_and_counts_them(
    folder: Path, predictor: NativePredictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = [Pair(seen(predictor, noise(20, 20)), text) for text in ("a", "a red circle")]
    exact = predictor.judge(pairs, go_on)
    free, guarded = (NativePredictor(device="cpu", dtype="bf16", guard=guard) for guard in (False, True))
    # Random weights lead by little: with this margin every verdict of theirs is a close call.
    monkeypatch.setattr("ofa.precision.MARGINS", {"bf16": 1e9, "fp32": 0.0})
    for one in (free, guarded):
        one.load(folder)
    assert free.judge(pairs, go_on) != exact
    assert free.guard_counts() is None
    assert guarded.judge(pairs, go_on) == exact
    assert guarded.guard_counts() == (2, {"fp32": 2})
    guarded.load(folder)
    guarded.judge(pairs, go_on)
    assert guarded.guard_counts() == (4, {"fp32": 4}), "it goes on counting over a reload"
    for one in (free, guarded):
        one.close()


def test_once_converted_weights_are_kept_the_next_load_is_mapped(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ofa.converted.WORTHWHILE", 1)
    predictor = NativePredictor(device="cpu", dtype="bf16", cache=tmp_path)
    assert isinstance(predictor, Converting)
    predictor.load(folder)
    pairs = [Pair(seen(predictor, noise(20, 20)), "a")]
    first = predictor.judge(pairs, go_on)
    predictor.keep_converted(go_on, lambda path: None)
    assert sorted(path.name.split("-")[1] for path in tmp_path.glob("*.safetensors")) == [
        "bfloat16.safetensors",
        "float32.safetensors",
    ]
    assert predictor.verify_converted(folder, go_on, lambda path: None)
    predictor.load(folder)
    assert predictor.judge(pairs, go_on) == first
    predictor.close()


def test_a_cache_that_cannot_be_written_is_an_os_error(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ofa.converted.WORTHWHILE", 1)
    (tmp_path / "file").touch()
    predictor = NativePredictor(device="cpu", dtype="fp32", cache=tmp_path / "file" / "cache")
    predictor.load(folder)
    assert predictor.verify_converted(folder, go_on, lambda path: None)
    with pytest.raises(OSError, match="directory"):
        predictor.keep_converted(go_on, lambda path: None)
    predictor.close()


def test_a_gpu_without_room_for_the_weights_leaves_them_on_the_cpu(
    folder: Path, pretended: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load = EntailmentModel.load.__func__  # type: ignore[attr-defined]

    def full(
        cls: type, folder: Path, device: str, dtype: torch.dtype, cache: Path | None = None
    ) -> EntailmentModel:
        if device != "cpu":
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return load(cls, folder, device, dtype)

    monkeypatch.setattr(EntailmentModel, "load", classmethod(full))
    predictor = NativePredictor()
    predictor.load(folder)
    assert (predictor.device, predictor.devices) == ("cpu", ("cuda:0", "cpu"))
    pairs = [Pair(seen(predictor, noise(20, 20)), "a")]
    with pytest.raises(OutOfMemory):
        predictor.judge_on("cuda:0", pairs)
    assert len(predictor.judge(pairs, go_on)) == 1
    predictor.close()


def test_weights_of_another_architecture_are_permanent(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"decoder_layers": config["decoder_layers"] + 1}))
    with pytest.raises(UnsupportedModel, match=r"missing decoder\.layers"):
        NativePredictor(device="cpu").load(copy)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
def test_cuda_that_is_not_there_is_refused_and_auto_takes_the_cpu(folder: Path) -> None:
    with pytest.raises(MissingDependency) as caught:
        NativePredictor(device="cuda").load(folder)
    assert "0 CUDA devices" in caught.value.message
    predictor = NativePredictor()
    predictor.load(folder)
    assert predictor.device == "cpu"
    predictor.close()


def test_fp16_on_a_cpu_is_refused(folder: Path) -> None:
    with pytest.raises(UnsupportedModel):
        NativePredictor(device="cpu", dtype="fp16").load(folder)


def test_a_truncated_weight_file_is_a_damaged_one(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    weights = copy / "pytorch_model.bin"
    weights.write_bytes(weights.read_bytes()[:-2000])
    with pytest.raises(DamagedFile):
        NativePredictor(device="cpu").load(copy)


def test_a_missing_configuration_is_permanent(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "model"))
    (copy / "config.json").unlink()
    with pytest.raises(UnsupportedModel):
        NativePredictor(device="cpu").load(copy)


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (UnsupportedConfig("config.json: use_ofasys", True, "false"), UnsupportedModel),
        (CheckpointError("the file is truncated"), DamagedFile),
        (Misfit("keys are missing"), UnsupportedModel),
        (OSError(errno.ENOSPC, "No space left on device"), DiskFull),
        (FileNotFoundError("vocab.json"), DamagedFile),
        (ImportError("no torch", name="torch"), MissingDependency),
        (MemoryError(), TransientLoadError),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), TransientLoadError),
        (ZeroDivisionError(SECRET), TransientLoadError),
    ],
)
def test_what_goes_wrong_in_loading_has_a_place_in_our_tree(foreign: Exception, ours: type) -> None:
    with pytest.raises(ServiceError) as caught, load_errors():
        raise foreign
    assert type(caught.value) is ours
    assert caught.value.__cause__ is foreign
    assert SECRET not in caught.value.message


@pytest.mark.parametrize(
    ("foreign", "ours"),
    [
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), OutOfMemory),
        (RuntimeError("CUDA error: out of memory"), OutOfMemory),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"),
            OutOfMemory,
        ),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12 bytes"), OutOfMemory),
        (MemoryError(), OutOfMemory),
        (RuntimeError("CUDA error: device-side assert triggered"), DeviceLost),
        (RuntimeError("CUDA error: an illegal memory access was encountered"), DeviceLost),
        (RuntimeError("CUDA error: unspecified launch failure"), DeviceLost),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), DeviceLost),
        (TextError(SECRET), InputError),
        (RuntimeError(f"shape mismatch in {SECRET}"), InferenceError),
        (KeyError(SECRET), InferenceError),
    ],
)
def test_what_goes_wrong_in_judging_has_a_place_in_our_tree(foreign: Exception, ours: type) -> None:
    with pytest.raises(ServiceError) as caught, inference_errors():
        raise foreign
    assert type(caught.value) is ours
    assert caught.value.__cause__ is foreign
    assert SECRET not in caught.value.message

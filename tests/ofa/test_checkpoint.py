"""The weight file is untrusted: it must match exactly, and nothing in it is executed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from ofa.checkpoint import is_ignored, read_state
from ofa.errors import CheckpointError, Misfit
from ofa.model import EntailmentModel
from ofa.pair import Pair

State = dict[str, Tensor]
Change = Callable[[State], object]


def stored(folder: Path) -> State:
    """A copy of the folder's weights in memory, since a test replaces the mapped file."""
    return {key: value.clone() for key, value in read_state(folder / "pytorch_model.bin").items()}


def rewrite(folder: Path, change: Change) -> None:
    state = stored(folder)
    change(state)
    torch.save(state, folder / "pytorch_model.bin")


def drop(key: str) -> Change:
    return lambda state: state.pop(key)


def add(key: str, value: Tensor) -> Change:
    return lambda state: state.update({key: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop("encoder.layers.0.fc1.weight"), "missing encoder.layers.0.fc1.weight"),
        (add("encoder.layers.0.fc3.weight", torch.zeros(2)), "unknown 'encoder.layers.0.fc3.weight'"),
        (add("encoder.layers.0.fc1.bias", torch.zeros(3)), "encoder.layers.0.fc1.bias is"),
        (add("encoder.layers.0.fc1.bias", torch.zeros(128, dtype=torch.int64)), "int64"),
        (add("decoder.embed_tokens.weight", torch.zeros(9892, 64)), "differs"),
    ],
)
def test_keys_shapes_and_copies_must_fit(folder_copy: Path, change: Change, message: str) -> None:
    rewrite(folder_copy, change)
    with pytest.raises(CheckpointError, match=message):
        EntailmentModel.load(folder_copy)


@pytest.mark.parametrize("key", ["conv1.weight", "layer1.0.bn2.running_var", "layer1.0.bn3.bias"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_picture_weight_that_is_not_finite_is_refused_since_relu_would_hide_it(
    folder_copy: Path, key: str, value: float
) -> None:
    def spoil(state: State) -> None:
        state[f"encoder.embed_images.{key}"].view(-1)[0] = value if "var" not in key else -abs(value)

    rewrite(folder_copy, spoil)
    with pytest.raises(Misfit, match=key.partition("bn")[0].replace("weight", "")):
        EntailmentModel.load(folder_copy)


def test_one_stored_embedding_stands_for_all_three(
    folder_copy: Path, model: EntailmentModel, picture: Image.Image
) -> None:
    def keep_one(state: State) -> None:
        del state["decoder.embed_tokens.weight"], state["decoder.output_projection.weight"]

    rewrite(folder_copy, keep_one)
    pair = Pair(picture, "a red circle")
    assert EntailmentModel.load(folder_copy).judge([pair]) == model.judge([pair])


def test_what_only_drawing_uses_and_the_buckets_may_be_absent(folder_copy: Path) -> None:
    before = read_state(folder_copy / "pytorch_model.bin")
    assert any(map(is_ignored, before)), "the folder under test stores none of what is to be ignored"
    rewrite(folder_copy, lambda state: [state.pop(key) for key in list(state) if is_ignored(key)])
    EntailmentModel.load(folder_copy)


def test_safetensors_load_like_pickles(
    folder_copy: Path, model: EntailmentModel, picture: Image.Image
) -> None:
    state = stored(folder_copy)
    save_file(state, folder_copy / "model.safetensors")
    (folder_copy / "pytorch_model.bin").unlink()
    pair = Pair(picture, "a red circle")
    # Not to the last bit: this format aligns to 8 bytes, for which some processors take other kernels.
    expected = pytest.approx(model.judge([pair])[0], abs=1e-6)
    assert EntailmentModel.load(folder_copy).judge([pair]) == [expected]


def test_the_format_before_torch_1_6_loads(
    folder_copy: Path, model: EntailmentModel, picture: Image.Image
) -> None:
    path = folder_copy / "pytorch_model.bin"
    torch.save(stored(folder_copy), path, _use_new_zipfile_serialization=False)
    assert path.read_bytes()[:2] != b"PK", "this is the new format"
    pair = Pair(picture, "a red circle")
    assert EntailmentModel.load(folder_copy).judge([pair]) == model.judge([pair])


@pytest.mark.parametrize("keep", [0, 100, 0.5, 0.99])
def test_a_cut_file_is_named_as_damaged(folder_copy: Path, keep: float) -> None:
    path = folder_copy / "pytorch_model.bin"
    size = path.stat().st_size
    os.truncate(path, int(keep * size) if keep < 1 else int(keep))
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin"):
        EntailmentModel.load(folder_copy)


def test_a_cut_safetensors_file_is_named_as_damaged(folder_copy: Path) -> None:
    state = stored(folder_copy)
    path = folder_copy / "model.safetensors"
    save_file(state, path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        EntailmentModel.load(folder_copy)


class Intruder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize(
    "save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=2))]
)
def test_code_in_a_weight_file_never_runs(
    folder_copy: Path, tmp_path: Path, save: Callable[[object, Path], None]
) -> None:
    save({"encoder.layer_norm.weight": Intruder(tmp_path / "intruded")}, folder_copy / "pytorch_model.bin")
    with pytest.raises(CheckpointError):
        EntailmentModel.load(folder_copy)
    assert not (tmp_path / "intruded").exists()


def test_a_folder_without_weights_says_which_files_it_needs(folder_copy: Path) -> None:
    (folder_copy / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors.*pytorch_model\.bin"):
        EntailmentModel.load(folder_copy)

"""The checksums in weight files written by torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ofa.archive import damaged
from ofa.errors import CheckpointError
from ofa.model import EntailmentModel

STATE = {"a": torch.arange(4096.0), "b": torch.ones(64, 64)}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.bin"
    torch.save(STATE, path)
    return path


def flip(path: Path) -> None:
    """One bit in the middle of a tensor: the file still loads."""
    content = bytearray(path.read_bytes())
    content[content.index(STATE["a"].numpy().tobytes()) + 4000] ^= 1
    path.write_bytes(content)


def test_an_intact_file_matches_its_checksums(weights: Path) -> None:
    assert not damaged(weights)


def test_one_wrong_bit_that_torch_does_not_notice_is_found(weights: Path) -> None:
    flip(weights)
    assert not torch.equal(torch.load(weights, weights_only=True)["a"], STATE["a"])
    assert damaged(weights)


@pytest.fixture
def no_checksums() -> Iterator[None]:
    torch.serialization.set_crc32_options(False)
    yield
    torch.serialization.set_crc32_options(True)


@pytest.mark.usefixtures("no_checksums")
def test_a_file_without_checksums_is_accepted(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "weights.bin")
    assert not damaged(tmp_path / "weights.bin")


def test_other_formats_have_none(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    torch.save(STATE, tmp_path / "old.bin", _use_new_zipfile_serialization=False)
    assert not damaged(tmp_path / "model.safetensors")
    assert not damaged(tmp_path / "old.bin")


def test_a_folder_with_a_damaged_weight_file_is_refused_naming_it(folder_copy: Path) -> None:
    EntailmentModel.load(folder_copy)
    path = folder_copy / "pytorch_model.bin"
    tensor = torch.load(path, weights_only=True)["encoder.layers.0.fc1.weight"]
    content = bytearray(path.read_bytes())
    content[content.index(tensor.numpy().tobytes()) + 400] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin is damaged"):
        EntailmentModel.load(folder_copy)

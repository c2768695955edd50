"""A converted file gives the source's answers, and is not used for another source."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

from lab.instances.instance import ROOT
from lab.parity.folders import SMALL, write_folder
from ofa import converted
from ofa.converted import Conversion
from ofa.model import EntailmentModel
from ofa.pair import Pair


@pytest.fixture(autouse=True)
def any_size_is_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converted, "WORTHWHILE", 1)


@pytest.fixture(
    scope="module", params=["scaled-shared-resnet34", "bare-post-norm", "entangled-untyped-resnet50"]
)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("converted") / "model", SMALL[request.param])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_answers_are_the_same_to_the_last_bit(
    folder: Path, dtype: torch.dtype, tmp_path: Path, picture: Image.Image
) -> None:
    first = EntailmentModel.load(folder, dtype=dtype, cache=tmp_path)
    first.keep()
    second = EntailmentModel.load(folder, dtype=dtype, cache=tmp_path)
    assert (first.mapped, second.mapped) == (False, True)
    aligned = {weight.data_ptr() % 64 for weight in second.network.state_dict().values()}
    assert aligned == {0}, "other kernels would be chosen than for the weights that were converted"
    pair = Pair(picture, "a red circle")
    assert second.judge([pair]) == first.judge([pair])
    assert second.conversion is not None
    assert second.conversion.verify()


def test_the_formats_are_kept_beside_each_other(folder_copy: Path, tmp_path: Path) -> None:
    for dtype in (torch.float32, torch.bfloat16):
        EntailmentModel.load(folder_copy, dtype=dtype, cache=tmp_path).keep()
    for dtype in (torch.float32, torch.bfloat16):
        model = EntailmentModel.load(folder_copy, dtype=dtype, cache=tmp_path)
        assert model.mapped
        assert model.dtype == dtype


def touched(path: Path) -> None:
    os.utime(path, ns=(1, 1))


def cut(path: Path) -> None:
    status = path.stat()
    os.truncate(path, status.st_size - 1)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flipped(path: Path) -> None:
    """Change the content but not size and time, which only hashing detects."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def other_version(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": converted.VERSION + 1}))


def spoiled(path: Path) -> None:
    path.write_text("{")


def other_configuration(path: Path) -> None:
    path.write_text(path.read_text() + "\n")


@pytest.mark.parametrize(
    ("which", "spoil"),
    [
        ("source", touched),
        ("file", touched),
        ("file", cut),
        ("record", other_version),
        ("record", spoiled),
        ("record", Path.unlink),
        ("file", Path.unlink),
        ("configuration", other_configuration),
    ],
)
def test_what_was_made_from_something_else_is_not_used_and_is_made_again(
    folder_copy: Path, tmp_path: Path, which: str, spoil: Callable[[Path], None]
) -> None:
    model = EntailmentModel.load(folder_copy, cache=tmp_path)
    model.keep()
    kept = model.conversion
    assert kept is not None
    spoil(
        {
            "source": kept.source,
            "file": kept.path,
            "record": kept.path.with_suffix(".json"),
            "configuration": folder_copy / "config.json",
        }[which]
    )
    again = EntailmentModel.load(folder_copy, cache=tmp_path)
    assert not again.mapped
    again.keep()
    assert EntailmentModel.load(folder_copy, cache=tmp_path).mapped


@pytest.mark.parametrize("which", ["source", "file"])
def test_hashing_finds_what_size_and_time_hide(folder_copy: Path, tmp_path: Path, which: str) -> None:
    EntailmentModel.load(folder_copy, cache=tmp_path).keep()
    model = EntailmentModel.load(folder_copy, cache=tmp_path)
    assert model.mapped
    kept = model.conversion
    assert kept is not None
    assert kept.verify()
    del model  # the file is mapped; it is changed under nobody's feet
    flipped(kept.source if which == "source" else kept.path)
    suspect = EntailmentModel.load(folder_copy, cache=tmp_path)
    assert suspect.mapped
    assert not kept.verify()
    assert not EntailmentModel.load(folder_copy, cache=tmp_path).mapped


def test_weights_that_changed_while_they_were_read_are_not_kept(folder_copy: Path, tmp_path: Path) -> None:
    model = EntailmentModel.load(folder_copy, cache=tmp_path / "cache")
    touched(folder_copy / "pytorch_model.bin")
    model.keep()
    assert not (tmp_path / "cache").exists()


def test_two_containers_that_share_the_cache_and_have_one_pid_keep_the_same(
    folder_copy: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    first, second = (EntailmentModel.load(folder_copy, cache=cache) for _ in range(2))
    between: list[bool] = []

    def while_the_first_writes() -> None:
        if not between and cache.exists() and list(cache.glob("*.part")):
            between.append(True)
            second.keep()

    first.keep(while_the_first_writes)
    assert between
    assert list(cache.glob("*.part")) == []
    assert Conversion(folder_copy, cache, torch.float32).verify()


def test_a_full_disk_leaves_nothing_behind(folder_copy: Path, tmp_path: Path) -> None:
    """A file size limit stands in for a full disk: the same writes fail, with another errno."""
    program = """
import errno, resource, signal, sys
from pathlib import Path
from ofa import converted
from ofa.model import EntailmentModel

converted.WORTHWHILE = 1
model = EntailmentModel.load(sys.argv[1], cache=Path(sys.argv[2]))
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, resource.RLIM_INFINITY))
try:
    model.keep()
except OSError as error:
    print(errno.errorcode[error.errno])
"""
    command = [sys.executable, "-c", program, str(folder_copy), str(tmp_path / "cache")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert (done.stdout, done.returncode) == ("EFBIG\n", 0), done.stderr
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_disk_that_is_full_when_the_record_is_written_leaves_nothing_behind(
    folder_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = EntailmentModel.load(folder_copy, cache=tmp_path / "cache")

    def fail(path: Path, *_: object, **__: object) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", fail)
        with pytest.raises(OSError, match="No space"):
            model.keep()
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_small_checkpoint_is_not_kept(
    folder_copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converted, "WORTHWHILE", 1 << 40)
    EntailmentModel.load(folder_copy, cache=tmp_path / "cache").keep()
    assert not (tmp_path / "cache").exists()


def test_writing_and_hashing_can_be_cancelled(folder_copy: Path, tmp_path: Path) -> None:
    class Stopped(Exception):
        pass

    def stop() -> None:
        raise Stopped

    model = EntailmentModel.load(folder_copy, cache=tmp_path / "cache")
    with pytest.raises(Stopped):
        model.keep(stop)
    model.keep()
    with pytest.raises(Stopped):
        Conversion(folder_copy, tmp_path / "cache", torch.float32).verify(stop)
    moved = shutil.copytree(folder_copy, tmp_path / "moved")
    assert not Conversion(moved, tmp_path / "cache", torch.float32).path.exists(), "one file for each folder"

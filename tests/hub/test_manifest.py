"""The manifest: which changes it detects and which faults it survives."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from service.hub.manifest import Manifest


def untold(file: str, size: int) -> None:
    pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "snapshot"
    path.mkdir()
    (path / "a").write_bytes(b"alpha")
    (path / "b").write_bytes(b"beta")
    return path


def manifest_of(folder: Path) -> Manifest:
    return Manifest.of(folder, ["b", "a"], model="o/n", revision="master", endpoint="hub", tick=untold)


def test_it_reads_back_what_it_wrote(folder: Path, tmp_path: Path) -> None:
    manifest = manifest_of(folder)
    manifest.save(tmp_path / "m.json")
    assert Manifest.load(tmp_path / "m.json") == manifest
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["m.json"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"format": 1}', '{"format": 1, "files": [{"path": "a"}]}']
)
def test_one_that_cannot_be_read_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.json").write_text(text)
    assert Manifest.load(tmp_path / "m.json") is None


def test_one_of_another_format_counts_as_none(folder: Path, tmp_path: Path) -> None:
    manifest_of(folder).save(tmp_path / "m.json")
    kept = json.loads((tmp_path / "m.json").read_text()) | {"format": 2}
    (tmp_path / "m.json").write_text(json.dumps(kept))
    assert Manifest.load(tmp_path / "m.json") is None


def test_the_old_one_stays_when_the_new_one_cannot_be_written(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.json"
    old = manifest_of(folder)
    old.save(path)
    (folder / "a").write_bytes(b"another")

    def no_room(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space"):
        manifest_of(folder).save(path)
    assert Manifest.load(path) == old
    assert [found.name for found in tmp_path.iterdir() if found.is_file()] == ["m.json"]


def test_unharmed_files_are_not_read_again(folder: Path) -> None:
    def never(file: str, size: int) -> None:
        raise AssertionError(f"{file} was read")

    manifest = manifest_of(folder)
    assert manifest.examine(folder, full=False, tick=never) == ([], manifest)


def test_a_new_time_alone_is_looked_into_and_forgiven(folder: Path) -> None:
    manifest = manifest_of(folder)
    os.utime(folder / "a", ns=(1, 1))
    damaged, seen = manifest.examine(folder, full=False, tick=untold)
    assert damaged == []
    assert [record.mtime_ns for record in seen.files if record.path == "a"] == [1]


def test_a_hashing_can_be_stopped(folder: Path) -> None:
    def stop(file: str, size: int) -> None:
        raise KeyboardInterrupt

    manifest = manifest_of(folder)
    with pytest.raises(KeyboardInterrupt):
        manifest.examine(folder, full=True, tick=stop)


def test_a_checksum_is_returned_while_size_and_time_match(folder: Path, tmp_path: Path) -> None:
    manifest = manifest_of(folder)
    assert manifest.checksum(folder, folder / "a") == hashlib.sha256(b"alpha").hexdigest()
    assert manifest.checksum(folder, tmp_path / "a") is None, "another file of that name"
    os.utime(folder / "a", ns=(1, 1))
    assert manifest.checksum(folder, folder / "a") is None
    (folder / "b").unlink()
    assert manifest.checksum(folder, folder / "b") is None

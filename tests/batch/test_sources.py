"""The archives of served batches: closed while they are read, and after a batch has expired."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from batch.archive import Archive
from batch.records import Picture
from tests.applications import Build
from tests.batch.served import finished, pairs, png, serving, upload, zipped
from tests.batch.test_runner import loaded
from tests.fakes import Clock, until


def test_a_picture_is_read_again_if_its_archive_is_closed_meanwhile(
    make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Archive.read
    with serving(make(), tmp_path) as batches:
        first = upload(batches, zipped([("1.png", "text")]))
        second = upload(batches, zipped([("2.png", "text")]))
        monkeypatch.setattr("batch.sources.OPEN", 1)

        def evicted(archive: Archive, *arguments: Any) -> bytes:
            monkeypatch.setattr(Archive, "read", read)
            batches._sources.open(second, Picture(0, "2.png", None, None))
            return read(archive, *arguments)

        monkeypatch.setattr(Archive, "read", evicted)
        assert batches._sources.open(first, Picture(0, "1.png", None, None)) == png(1)


def test_an_expired_batch_frees_the_disk(
    make: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batch.runner.SWEEP_SECONDS", 0.0)
    clock = Clock(1_800_000_000.0)
    with serving(loaded(make, None), tmp_path, clock=clock) as batches:
        batch = upload(batches, zipped(pairs(2, 1)))
        finished(batches, batch)
        until(lambda: batch.id not in batches._sources._open)  # closed at its end
        assert batches.thumbnail(batch.id, "", 1)
        clock.move(7 * 86_400 + 1)
        batches._runner.wake()
        until(lambda: not (tmp_path / "batches" / f"{batch.id}.zip").exists())
        until(lambda: not [name for name in _open_files() if f"{batch.id}.zip" in name])


def _open_files() -> list[str]:
    found = []
    for number in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{number}"))
        except FileNotFoundError:
            continue
    return found

"""What is uploaded does not stay."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from page.uploads import AGE, SWEEP, Uploads

PORT = 65001


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def uploads() -> Iterator[Uploads]:
    uploads = Uploads(PORT)
    uploads.start()
    yield uploads
    uploads.stop()


def test_old_entries_go_whole_and_young_ones_stay(uploads: Uploads) -> None:
    now = time.time()
    for name, age in (("old", AGE + SWEEP + 5), ("young", AGE)):
        folder = uploads.folder / name
        folder.mkdir()
        (folder / "picture.png").write_bytes(b"x")
        os.utime(folder, (now - age, now - age))
    cut_off = uploads.folder / "tmp-part"
    cut_off.write_bytes(b"half a picture")
    os.utime(cut_off, (0, 0))
    uploads.sweep(now)
    assert sorted(path.name for path in uploads.folder.rglob("*")) == ["picture.png", "young"]


def test_the_folder_is_private_and_gone_in_the_end() -> None:
    uploads = Uploads(PORT)
    uploads.start()
    (uploads.folder / "picture.png").write_bytes(b"x")
    assert uploads.folder.stat().st_mode & 0o777 == 0o700
    uploads.stop()
    assert not uploads.folder.exists()


def test_what_a_killed_process_left_on_this_port_is_removed_and_nothing_else(tmp_path: Path) -> None:
    left, other = tmp_path / f"ofa-page-{PORT}-abc", tmp_path / f"ofa-page-{PORT}1-abc"
    elsewhere = tmp_path / "elsewhere"
    for folder in (left, other, elsewhere):
        folder.mkdir()
        (folder / "picture.png").write_bytes(b"x")
    link = tmp_path / f"ofa-page-{PORT}-link"
    link.symlink_to(elsewhere)
    uploads = Uploads(PORT)
    assert not left.exists()
    assert (other / "picture.png").exists()
    assert (elsewhere / "picture.png").exists()
    uploads.stop()


def test_nothing_stays_longer_than_the_page_promises() -> None:
    assert AGE + 3 * SWEEP < 20 * 60

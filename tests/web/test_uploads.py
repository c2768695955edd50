"""What is uploaded stays for a while, within a budget, and nobody else's folder is touched."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lab.instances.instance import ROOT
from page import uploads as module
from page.quota import NoCapacity, QuotaExceeded
from page.uploads import AGE, LEAST_BYTES, SHARES, Incoming, Uploads
from tests.fakes import Clock

PORT = 65001
SHARE = 4 * LEAST_BYTES


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "SHARE_BYTES", SHARE)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def uploads(clock: Clock) -> Iterator[Uploads]:
    uploads = Uploads(PORT, clock=clock)
    yield uploads
    uploads.stop()


def put(uploads: Uploads, caller: str = "a", size: int = 10, name: str = "picture.png") -> Path:
    incoming = uploads.create(caller, name)
    incoming.write(b"x" * size)
    return incoming.finish()


def files(uploads: Uploads) -> list[Path]:
    return [path for path in uploads.folder.rglob("*") if path.is_file() and path.name != ".lock"]


def test_a_file_is_there_until_a_while_after_its_last_use(uploads: Uploads, clock: Clock) -> None:
    path = put(uploads)
    for _ in range(3):
        clock.move(AGE - 1)
        uploads.sweep()
        assert uploads.find(path) == path
    clock.move(AGE)
    uploads.sweep()
    assert uploads.find(path) is None
    assert files(uploads) == []
    assert uploads.within(path), "it was ours"


def test_a_file_that_is_being_read_is_not_deleted(uploads: Uploads, clock: Clock) -> None:
    path = put(uploads)
    with uploads.in_use(path):
        clock.move(2 * AGE)
        uploads.sweep()
        assert path.exists()
    uploads.sweep()
    assert path.exists(), "it was used just now"
    clock.move(AGE)
    uploads.sweep()
    assert not path.exists()


@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("a.PNG", ".PNG"),
        ("a/b/../../c.tar.gz", ".gz"),
        ("x.\u202egnp", ""),
        ("..", ""),
        ("a." + "b" * 300, ""),
        ("", ""),
        ("\0.png", ".png"),
    ],
)
def test_of_a_name_the_ending_is_kept(uploads: Uploads, name: str, ending: str) -> None:
    path = put(uploads, name=name)
    assert path.name == f"picture{ending}"
    assert path.parent.parent == uploads.folder
    assert put(uploads, name=name) != path, "the same picture of two callers is two files"


def test_only_what_was_uploaded_here_is_found(uploads: Uploads, tmp_path: Path) -> None:
    path = put(uploads)
    assert uploads.find(f"{path.parent}/../{path.parent.name}/{path.name}") == path
    beside = tmp_path / "beside.png"
    beside.write_bytes(b"x")
    (uploads.folder / "link.png").symlink_to(beside)
    begun = uploads.create("a")
    for other in (beside, path.parent, uploads.folder, uploads.folder / ".lock", uploads.folder / "link.png"):
        assert uploads.find(other) is None
    assert uploads.find(next(iter({*uploads._files} - {path}))) is None, "it is not whole"
    begun.discard()
    for odd in ("", "\0", "x" * 5000, "\ud800", f"{uploads.folder}/{'../' * 2000}"):
        assert uploads.find(odd) is None


# ---- budgets ---------------------------------------------------------------------------------------------


def test_one_caller_has_a_share_and_its_oldest_files_make_room(uploads: Uploads) -> None:
    other = put(uploads, "b")
    mine = [put(uploads, "a") for _ in range(6)]
    assert [path.exists() for path in mine] == [False, False, True, True, True, True]
    assert other.exists()


def test_what_is_read_or_written_makes_no_room(uploads: Uploads) -> None:
    read, begun = put(uploads, "a"), [uploads.create("a") for _ in range(3)]
    with uploads.in_use(read), pytest.raises(QuotaExceeded):
        uploads.create("a")
    assert read.exists()
    with uploads.in_use(read), pytest.raises(QuotaExceeded):
        begun[0].write(b"x" * (LEAST_BYTES + 1))
    for incoming in begun:
        incoming.discard()
    assert files(uploads) == [read]


def test_when_all_is_taken_the_least_recently_used_goes_first(uploads: Uploads) -> None:
    paths = [put(uploads, f"caller {number}") for number in range(4 * SHARES)]
    uploads.find(paths[0])
    with uploads.in_use(paths[1]):
        put(uploads, "another")
        put(uploads, "another")
    assert [path.exists() for path in paths[:5]] == [True, True, False, False, True]


def test_when_all_is_in_use_there_is_none_left(uploads: Uploads) -> None:
    begun = [uploads.create(f"caller {number}") for number in range(4 * SHARES)]
    with pytest.raises(NoCapacity):
        uploads.create("another")
    begun.pop().discard()
    put(uploads, "another")
    for incoming in begun:
        incoming.discard()


def test_what_is_deleted_gives_its_place_back(uploads: Uploads, clock: Clock) -> None:
    for _ in range(50):
        put(uploads, "a", SHARE)
        uploads.create("b").discard()
    clock.move(AGE)
    uploads.sweep()
    assert uploads._shares.used() == 0
    assert files(uploads) == []


def test_a_file_may_be_larger_than_a_share_where_that_is_allowed() -> None:
    uploads = Uploads(PORT, largest=3 * SHARE)
    assert put(uploads, "a", 3 * SHARE).stat().st_size == 3 * SHARE
    uploads.stop()


def test_the_file_system_keeps_a_reserve(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of ours make room for a new one; where that is not enough, there is none."""
    old = put(uploads)
    free = {"bytes": LEAST_BYTES - 1}

    def statvfs(path: Any) -> Any:
        spare = 0 if old.exists() else LEAST_BYTES
        return SimpleNamespace(f_blocks=0, f_frsize=1, f_bavail=free["bytes"] + spare)

    monkeypatch.setattr(os, "statvfs", statvfs)
    new = put(uploads)
    assert (old.exists(), new.exists()) == (False, True)
    free["bytes"] = -LEAST_BYTES
    with pytest.raises(NoCapacity):
        uploads.create("a")
    assert files(uploads) == []


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_no_room_and_leaves_nothing(
    uploads: Uploads, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise OSError(error, "full")

    incoming = uploads.create("a")
    with monkeypatch.context() as patched:
        assert incoming._file is not None
        incoming._file.close()
        patched.setattr(incoming, "_file", SimpleNamespace(write=full, close=full))
        with pytest.raises(NoCapacity):
            incoming.write(b"x")
        with pytest.raises(NoCapacity):
            incoming.finish()
        incoming.discard()
    with monkeypatch.context() as patched:
        patched.setattr(Incoming, "open", full)
        with pytest.raises(NoCapacity):
            uploads.create("a")
    assert files(uploads) == []
    assert uploads._shares.used() == 0


# ---- the folder ------------------------------------------------------------------------------------------


def test_the_folder_is_private_and_gone_in_the_end() -> None:
    uploads = Uploads(PORT)
    uploads.start()
    put(uploads)
    assert uploads.folder.stat().st_mode & 0o777 == 0o700
    uploads.stop()
    assert not uploads.folder.exists()


def test_a_folder_that_a_cleaner_removed_is_made_again_as_it_was(uploads: Uploads, tmp_path: Path) -> None:
    old = put(uploads)
    shutil.rmtree(uploads.folder)
    assert uploads.find(old) is None
    assert uploads.find(put(uploads)) is not None
    assert uploads.folder.stat().st_mode & 0o777 == 0o700
    other = Uploads(PORT)
    other.stop()
    assert uploads.folder.exists(), "it is held again"


def test_a_folder_that_another_made_in_our_name_is_not_used(uploads: Uploads) -> None:
    shutil.rmtree(uploads.folder)
    uploads.folder.mkdir(mode=0o755)
    with pytest.raises(PermissionError):
        uploads.create("a")


def test_two_instances_with_one_port_leave_each_other_alone() -> None:
    """On two addresses of this machine, or in two containers that share a temporary folder."""
    first = Uploads(PORT)
    path = put(first)
    second = Uploads(PORT)
    assert path.exists()
    second.stop()
    assert path.exists()
    first.stop()


def test_what_a_killed_process_left_on_this_port_is_removed_and_nothing_else(tmp_path: Path) -> None:
    script = (
        f"from page.uploads import Uploads; import os; print(Uploads({PORT}).folder); os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run(
        [sys.executable, "-c", f"import tempfile; tempfile.tempdir = {str(tmp_path)!r}\n{script}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    left = Path(killed.stdout.strip())
    assert (left / ".lock").exists()
    older, other = tmp_path / f"ofa-page-{PORT}-abc", tmp_path / f"ofa-page-{PORT}1-abc"
    elsewhere = tmp_path / "elsewhere"
    for folder in (older, other, elsewhere):
        folder.mkdir()
        (folder / "picture.png").write_bytes(b"x")
    link = tmp_path / f"ofa-page-{PORT}-link"
    link.symlink_to(elsewhere)
    uploads = Uploads(PORT)
    assert not left.exists()
    assert not older.exists()
    assert (other / "picture.png").exists()
    assert (elsewhere / "picture.png").exists()
    uploads.stop()


def test_a_picture_of_ours_is_kept_and_copied_again_when_it_is_gone(uploads: Uploads, tmp_path: Path) -> None:
    example = tmp_path / "example.png"
    example.write_bytes(b"x")
    copy = uploads.keep(example)
    assert uploads.keep(example) == copy
    assert uploads.find(copy) == copy
    for number in range(20):
        put(uploads, f"caller {number}")
    assert uploads.find(copy) == copy
    shutil.rmtree(uploads.folder)
    again = uploads.keep(example)
    assert uploads.find(again) == again

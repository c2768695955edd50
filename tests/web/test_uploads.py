"""The upload store: expiry, quotas, and the folders of other processes."""

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
from page.uploads import AGE, FULL_QUOTAS, LEAST_BYTES, Incoming, Uploads
from service.http.quota import NoCapacity, QuotaExceeded
from tests.fakes import Clock
from tests.web.client import present

PORT = 65001
SHARE = 4 * LEAST_BYTES


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(module, "CALLER_BYTES", SHARE)


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
    return [path for path in present(uploads.folder, "**/*") if path.name != ".lock"]


def test_a_file_expires_after_its_last_use(uploads: Uploads, clock: Clock) -> None:
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
def test_only_the_suffix_of_a_name_is_kept(uploads: Uploads, name: str, ending: str) -> None:
    path = put(uploads, name=name)
    assert path.name == f"picture{ending}"
    assert path.parent.parent == uploads.folder
    assert put(uploads, name=name) != path, "the same picture of two callers is two files"


def test_only_complete_uploads_are_found(uploads: Uploads, tmp_path: Path) -> None:
    path = put(uploads)
    assert uploads.find(f"{path.parent}/../{path.parent.name}/{path.name}") == path
    beside = tmp_path / "beside.png"
    beside.write_bytes(b"x")
    (uploads.folder / "link.png").symlink_to(beside)
    begun = uploads.create("a")
    for other in (beside, path.parent, uploads.folder, uploads.folder / ".lock", uploads.folder / "link.png"):
        assert uploads.find(other) is None
    assert uploads.find(next(iter({*uploads._files} - {path}))) is None, "it is incomplete"
    begun.discard()
    for odd in ("", "\0", "x" * 5000, "\ud800", f"{uploads.folder}/{'../' * 2000}"):
        assert uploads.find(odd) is None


# ---- quotas ----------------------------------------------------------------------------------------------


def test_a_callers_oldest_files_are_evicted_at_its_quota(uploads: Uploads) -> None:
    other = put(uploads, "b")
    mine = [put(uploads, "a") for _ in range(6)]
    assert [path.exists() for path in mine] == [False, False, True, True, True, True]
    assert other.exists()


def test_files_in_use_are_not_evicted(uploads: Uploads) -> None:
    read, begun = put(uploads, "a"), [uploads.create("a") for _ in range(3)]
    with uploads.in_use(read), pytest.raises(QuotaExceeded):
        uploads.create("a")
    assert read.exists()
    with uploads.in_use(read), pytest.raises(QuotaExceeded):
        begun[0].write(b"x" * (LEAST_BYTES + 1))
    for incoming in begun:
        incoming.discard()
    assert files(uploads) == [read]


def test_at_the_total_the_least_recently_used_file_is_evicted(uploads: Uploads) -> None:
    paths = [put(uploads, f"caller {number}") for number in range(4 * FULL_QUOTAS)]
    uploads.find(paths[0])
    with uploads.in_use(paths[1]):
        put(uploads, "another")
        put(uploads, "another")
    assert [path.exists() for path in paths[:5]] == [True, True, False, False, True]


def test_at_the_total_with_all_files_in_use_there_is_no_capacity(uploads: Uploads) -> None:
    begun = [uploads.create(f"caller {number}") for number in range(4 * FULL_QUOTAS)]
    with pytest.raises(NoCapacity):
        uploads.create("another")
    begun.pop().discard()
    put(uploads, "another")
    for incoming in begun:
        incoming.discard()


def test_deleted_files_release_their_quota(uploads: Uploads, clock: Clock) -> None:
    for _ in range(50):
        put(uploads, "a", SHARE)
        uploads.create("b").discard()
    clock.move(AGE)
    uploads.sweep()
    assert uploads._quota.used() == 0
    assert files(uploads) == []


def test_the_quota_grows_with_the_largest_allowed_file() -> None:
    uploads = Uploads(PORT, largest=3 * SHARE)
    assert put(uploads, "a", 3 * SHARE).stat().st_size == 3 * SHARE
    uploads.stop()


def test_the_file_system_keeps_a_reserve(uploads: Uploads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older files are evicted for a new one; if that is not enough, there is no capacity."""
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
def test_a_full_disk_is_no_capacity_and_leaves_no_file(
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
    assert uploads._quota.used() == 0


# ---- the folder ------------------------------------------------------------------------------------------


def test_the_folder_is_private_and_removed_at_the_stop() -> None:
    uploads = Uploads(PORT)
    uploads.start()
    put(uploads)
    assert uploads.folder.stat().st_mode & 0o777 == 0o700
    uploads.stop()
    assert not uploads.folder.exists()


def test_a_removed_folder_is_recreated_and_locked(uploads: Uploads, tmp_path: Path) -> None:
    old = put(uploads)
    shutil.rmtree(uploads.folder)
    assert uploads.find(old) is None
    assert uploads.find(put(uploads)) is not None
    assert uploads.folder.stat().st_mode & 0o777 == 0o700
    other = Uploads(PORT)
    other.stop()
    assert uploads.folder.exists(), "it is locked again"


def test_a_folder_created_by_another_user_is_not_used(uploads: Uploads) -> None:
    shutil.rmtree(uploads.folder)
    uploads.folder.mkdir(mode=0o755)
    with pytest.raises(PermissionError):
        uploads.create("a")


def test_the_temporary_folder_may_hand_its_group_down(tmp_path: Path) -> None:
    """As Kubernetes mounts a volume with fsGroup."""
    tmp_path.chmod(0o2777)
    uploads = Uploads(PORT)
    put(uploads)
    assert uploads.folder.stat().st_mode & 0o7777 == 0o2700
    uploads.stop()


def test_two_instances_with_one_port_keep_their_folders() -> None:
    """On two addresses, or in two containers that share a temporary folder."""
    first = Uploads(PORT)
    path = put(first)
    second = Uploads(PORT)
    assert path.exists()
    second.stop()
    assert path.exists()
    first.stop()


def test_only_abandoned_folders_of_this_port_are_removed(tmp_path: Path) -> None:
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


def test_an_example_is_copied_and_copied_again_when_removed(uploads: Uploads, tmp_path: Path) -> None:
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

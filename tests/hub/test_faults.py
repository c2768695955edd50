"""Faults of hub, connection and disk during a download, and resuming afterwards."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lab.instances.hub import Hub
from service.contract.errors import (
    DamagedFile,
    DiskFull,
    DownloadInterrupted,
    HubUnavailable,
    ModelNotFound,
    PermanentLoadError,
    TransientLoadError,
    UnsupportedModel,
)
from service.hub.resolve import resolve
from tests.hub.conftest import MODEL, PATIENCE, WEIGHTS, fake_model, wait_for_partial

SIZE = len(fake_model()[WEIGHTS])


def waiting_for(released: threading.Event) -> Callable[[], None]:
    def wait() -> None:
        released.wait(PATIENCE)

    return wait


def test_a_cut_download_goes_on_where_it_stopped(hub: Hub, cache: Path) -> None:
    hub.faults.cut_after[WEIGHTS] = [300_000]
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert hub.ranges(WEIGHTS) == [None, "bytes=300000-"]
    assert hub.sent[WEIGHTS] == SIZE
    assert (folder / WEIGHTS).read_bytes() == fake_model()[WEIGHTS]


@pytest.mark.usefixtures("hasty_client")
def test_a_download_given_up_goes_on_at_the_next_attempt(hub: Hub, cache: Path) -> None:
    hub.faults.cut_after[WEIGHTS] = [300_000]
    with pytest.raises(DownloadInterrupted, match=WEIGHTS):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert hub.ranges(WEIGHTS) == [None, "bytes=300000-"]
    assert hub.sent[WEIGHTS] == SIZE
    assert hub.sent["vocab.json"] == len(fake_model()["vocab.json"])
    assert (folder / WEIGHTS).read_bytes() == fake_model()[WEIGHTS]


@pytest.mark.usefixtures("hasty_client")
def test_a_model_that_changed_during_the_cut_is_not_spliced(hub: Hub, cache: Path) -> None:
    hub.faults.cut_after[WEIGHTS] = [300_000]
    with pytest.raises(DownloadInterrupted):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    hub.repositories[MODEL, "master"] = fake_model(seed=1)
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert (folder / WEIGHTS).read_bytes() == fake_model(seed=1)[WEIGHTS]


def test_a_model_that_changes_while_it_is_fetched_is_not_sealed(hub: Hub, cache: Path) -> None:
    # The client asks for the list anew before each of its downloads; ours came first.
    def change() -> None:
        if hub.listings == 3:
            hub.repositories[MODEL, "master"] = fake_model(seed=1)

    hub.faults.before_list = change
    with pytest.raises(DamagedFile, match=WEIGHTS):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert (folder / WEIGHTS).read_bytes() == fake_model(seed=1)[WEIGHTS]


@pytest.mark.usefixtures("hasty_client")
def test_a_hub_that_is_down_is_named_and_worth_another_attempt(hub: Hub, cache: Path) -> None:
    hub.stop()
    with pytest.raises(HubUnavailable, match=r"127\.0\.0\.1 cannot be reached") as raised:
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert isinstance(raised.value, TransientLoadError)
    assert raised.value.__cause__ is not None


@pytest.mark.usefixtures("hasty_client")
@pytest.mark.parametrize("status", [429, 500, 502, 503])
def test_a_hub_out_of_order_is_worth_another_attempt(hub: Hub, cache: Path, status: int) -> None:
    hub.faults.list_status = [status]
    with pytest.raises(HubUnavailable, match=str(status)):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)


@pytest.mark.usefixtures("hasty_client")
@pytest.mark.parametrize(
    "body", [b"<html>sign in to the hotel</html>", b"[]", b'{"Data": {"Files": []}}', b"1"]
)
def test_an_invalid_file_list_makes_the_hub_unavailable(hub: Hub, cache: Path, body: bytes) -> None:
    hub.faults.list_body = body
    with pytest.raises(HubUnavailable):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)


@pytest.mark.usefixtures("hasty_client")
def test_a_hub_that_never_answers_is_given_up(hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelscope_hub._legacy_api.REPO_TREE_PAGE_TIMEOUT_SECONDS", 1)
    released = threading.Event()
    hub.faults.before_list = waiting_for(released)
    try:
        with pytest.raises(HubUnavailable, match="did not answer in time"):
            resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    finally:
        released.set()


@pytest.mark.usefixtures("hasty_client")
def test_a_line_that_falls_silent_is_given_up_and_its_bytes_kept(
    hub: Hub, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modelscope_hub._legacy_api.DOWNLOAD_TIMEOUT", 5)
    released = threading.Event()
    hub.faults.halfway[WEIGHTS] = waiting_for(released)
    try:
        with pytest.raises(DownloadInterrupted):
            resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    finally:
        released.set()
    (partial,) = cache.rglob(f"{WEIGHTS}.incomplete")
    assert partial.read_bytes() == fake_model()[WEIGHTS][: SIZE // 2]


@pytest.mark.usefixtures("hasty_client")
def test_wrong_bytes_of_the_right_size_are_found_and_fetched_again(hub: Hub, cache: Path) -> None:
    hub.faults.flipped[WEIGHTS] = 1
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert (folder / WEIGHTS).read_bytes() == fake_model()[WEIGHTS]
    assert hub.ranges("vocab.json") == [None]


@pytest.mark.usefixtures("hasty_client")
@pytest.mark.parametrize("name", [WEIGHTS, "vocab.json"])
def test_bytes_that_stay_wrong_are_named_and_never_kept(hub: Hub, cache: Path, name: str) -> None:
    hub.faults.flipped[name] = 99
    with pytest.raises(DamagedFile, match=name):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    (snapshot,) = cache.glob("models/*/snapshots/master")
    assert not (snapshot / name).exists()
    hub.faults.flipped.clear()
    resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)


@pytest.mark.parametrize(("model", "revision"), [("iic/no_such_model", None), (MODEL, "v9")])
def test_a_wrong_id_or_revision_is_named_and_not_tried_again(
    hub: Hub, cache: Path, model: str, revision: str | None
) -> None:
    with pytest.raises(ModelNotFound, match=f"{model}.*{revision or 'master'}"):
        resolve(model, revision=revision, cache_dir=cache, endpoint=hub.endpoint)
    assert hub.listings == 1


@pytest.mark.parametrize("status", [401, 403])
def test_a_gated_model_asks_for_a_token(hub: Hub, cache: Path, status: int) -> None:
    hub.faults.list_status = [status]
    with pytest.raises(ModelNotFound, match=MODEL) as raised:
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert "MODELSCOPE_API_TOKEN" in raised.value.remedy


def test_a_gated_file_of_a_listed_model_asks_for_a_token(hub: Hub, cache: Path) -> None:
    hub.faults.file_status["configuration.json"] = [403] * 9
    with pytest.raises(ModelNotFound, match=MODEL) as raised:
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert "MODELSCOPE_API_TOKEN" in raised.value.remedy


@pytest.mark.parametrize("gone", ["vocab.json", WEIGHTS, "ans2label.json"])
def test_a_repository_that_lacks_a_file_is_refused_before_its_weights_are_fetched(
    hub: Hub, cache: Path, gone: str
) -> None:
    del hub.repositories[MODEL, "master"][gone]
    with pytest.raises(UnsupportedModel, match=gone):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert WEIGHTS not in hub.requested()


@pytest.mark.parametrize("configuration", [b"{", b'{"model": {"answer2label": "../../etc/passwd"}}'])
def test_a_configuration_that_cannot_be_followed_is_refused(
    hub: Hub, cache: Path, configuration: bytes
) -> None:
    hub.repositories[MODEL, "master"]["configuration.json"] = configuration
    with pytest.raises(UnsupportedModel, match=r"configuration\.json"):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert hub.requested() == ["configuration.json"]


def test_a_cache_path_that_is_a_file_is_a_permanent_error(hub: Hub, cache: Path) -> None:
    cache.write_text("a file")
    with pytest.raises(PermanentLoadError, match="cannot be written"):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting a small disk needs root and the right to mount")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_model_too_large_for_the_disk_is_refused_before_it_is_fetched(hub: Hub, small_disk: Path) -> None:
    hub.repositories[MODEL, "master"][WEIGHTS] = bytes(5 << 20)
    with pytest.raises(DiskFull, match=r"needs 6\.3 MB more, 4\.2 MB are free") as raised:
        resolve(MODEL, cache_dir=small_disk, endpoint=hub.endpoint)
    assert int(raised.value.facts["needed_bytes"]) > int(raised.value.facts["free_bytes"])
    assert hub.files == []


@pytest.mark.usefixtures("hasty_client")
def test_files_already_present_need_no_free_space(hub: Hub, small_disk: Path) -> None:
    hub.repositories[MODEL, "master"][WEIGHTS] = os.urandom(2 << 20)
    hub.faults.cut_after[WEIGHTS] = [3 << 19]
    with pytest.raises(DownloadInterrupted):
        resolve(MODEL, cache_dir=small_disk, endpoint=hub.endpoint)
    # Half a megabyte is still to come, and a whole one to spare; two would not fit.
    resolve(MODEL, cache_dir=small_disk, endpoint=hub.endpoint)


@pytest.mark.usefixtures("hasty_client")
def test_a_disk_that_fills_up_meanwhile_is_named_and_what_was_written_is_kept(
    hub: Hub, small_disk: Path
) -> None:
    hub.repositories[MODEL, "master"][WEIGHTS] = weights = os.urandom(2 << 20)
    other = small_disk / "somebody-elses-file"

    def fill_once_something_was_written() -> None:
        wait_for_partial(small_disk)
        fill(other)

    hub.faults.halfway[WEIGHTS] = fill_once_something_was_written
    with pytest.raises(DiskFull):
        resolve(MODEL, cache_dir=small_disk, endpoint=hub.endpoint)
    other.unlink()
    hub.files.clear()
    folder = resolve(MODEL, cache_dir=small_disk, endpoint=hub.endpoint)
    assert (folder / WEIGHTS).read_bytes() == weights
    assert hub.ranges(WEIGHTS)[0] is not None


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as stream:
        try:
            while stream.write(bytes(4096)):
                pass
        except OSError:
            pass


def test_a_read_only_cache_is_a_permanent_error(hub: Hub, tmp_path: Path) -> None:
    disk = tmp_path / "read-only"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a read-only disk needs root and the right to mount")
    try:
        with pytest.raises(PermanentLoadError, match="cannot be written"):
            resolve(MODEL, cache_dir=disk, endpoint=hub.endpoint)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_a_calibration_in_the_folder_survives_fetching_a_damaged_file_again(hub: Hub, cache: Path) -> None:
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    (folder / "calibration.json").write_text("{}")
    (folder / WEIGHTS).write_bytes(b"damaged")
    hub.sent.clear()
    assert resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint) == folder
    assert hub.sent[WEIGHTS] > 0
    assert (folder / "calibration.json").read_text() == "{}"

"""Successful downloads with the real client from a loopback hub, and later verification of the copy."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lab.instances.hub import Hub
from lab.parity.folders import SMALL, write_folder
from ofa.model import EntailmentModel
from ofa.pair import Pair
from service.contract.errors import HubUnavailable
from service.hub.resolve import Progress, resolve
from tests.hub.conftest import MODEL, NEEDED, WEIGHTS, fake_model


def test_exactly_the_needed_files_are_fetched(hub: Hub, cache: Path) -> None:
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert sorted(path.name for path in folder.iterdir()) == NEEDED
    assert sorted(hub.requested()) == NEEDED
    assert hub.strays == []
    for name in NEEDED:
        assert (folder / name).read_bytes() == fake_model()[name]


def test_the_manifest_names_every_file_with_size_and_checksum(hub: Hub, cache: Path) -> None:
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    manifest = json.loads(folder.with_name("master.manifest.json").read_text())
    assert (manifest["model"], manifest["revision"]) == (MODEL, "master")
    assert [entry["path"] for entry in manifest["files"]] == NEEDED
    for entry in manifest["files"]:
        content = fake_model()[entry["path"]]
        assert entry["size"] == len(content)
        assert entry["sha256"] == hashlib.sha256(content).hexdigest()
        assert entry["mtime_ns"] == (folder / entry["path"]).stat().st_mtime_ns


@pytest.mark.parametrize("verify", ["quick", "full"])
def test_an_intact_copy_does_not_contact_the_hub(hub: Hub, cache: Path, verify: str) -> None:
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    hub.stop()
    assert resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint, verify=verify) == folder


def test_a_copied_cache_with_other_file_times_does_not_contact_the_hub(
    hub: Hub, cache: Path, tmp_path: Path
) -> None:
    resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    hub.stop()
    moved = tmp_path / "elsewhere"
    shutil.copytree(cache, moved, copy_function=shutil.copyfile)
    folder = resolve(MODEL, cache_dir=moved, endpoint=hub.endpoint)
    known = json.loads(folder.with_name("master.manifest.json").read_text())["files"]
    assert all(entry["mtime_ns"] == (folder / entry["path"]).stat().st_mtime_ns for entry in known)


def test_a_pinned_revision_is_kept_apart(hub: Hub, cache: Path) -> None:
    hub.repositories[MODEL, "v1.0/rc"] = fake_model(seed=1)
    newest = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    pinned = resolve(MODEL, revision="v1.0/rc", cache_dir=cache, endpoint=hub.endpoint)
    assert newest != pinned
    assert (pinned / WEIGHTS).read_bytes() == fake_model(seed=1)[WEIGHTS]
    assert (newest / WEIGHTS).read_bytes() == fake_model(seed=0)[WEIGHTS]


def test_safetensors_are_preferred_and_the_other_weights_left_at_the_hub(hub: Hub, cache: Path) -> None:
    hub.repositories[MODEL, "master"]["model.safetensors"] = b"s" * 100_000
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert (folder / "model.safetensors").is_file()
    assert WEIGHTS not in hub.requested()


def test_a_card_brings_the_pictures_of_its_examples_and_nothing_from_outside(hub: Hub, cache: Path) -> None:
    examples = [{"image": "examples/a[1].png"}, {"image": "../../secret"}, {"image": "examples/gone.png"}]
    hub.repositories[MODEL, "master"] |= {
        "card.json": json.dumps({"examples": examples}).encode(),
        "examples/a[1].png": b"picture",
        "examples/a1.png": b"another",
    }
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert (folder / "examples/a[1].png").read_bytes() == b"picture"
    assert sorted(hub.requested()) == sorted([*NEEDED, "card.json", "examples/a[1].png"])


def test_progress_counts_all_files_together_and_ends_complete(hub: Hub, cache: Path) -> None:
    seen: list[Progress] = []
    resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint, progress=seen.append)
    total = sum(len(fake_model()[name]) for name in NEEDED)
    assert seen[-1].done_bytes == seen[-1].total_bytes == total
    assert [step.done_bytes for step in seen] == sorted(step.done_bytes for step in seen)


def test_what_the_progress_callback_raises_stops_the_download(hub: Hub, cache: Path) -> None:
    class Stop(Exception):
        pass

    def stop(progress: Progress) -> None:
        raise Stop

    with pytest.raises(Stop):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint, progress=stop)
    assert WEIGHTS not in hub.requested()


@pytest.mark.parametrize("harm", ["truncated", "other bytes", "gone"])
def test_a_damaged_file_is_fetched_again_and_only_it(hub: Hub, cache: Path, harm: str) -> None:
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    good = (folder / "vocab.json").stat()
    weights = folder / WEIGHTS
    if harm == "gone":
        weights.unlink()
    else:
        content = fake_model()[WEIGHTS]
        weights.write_bytes(content[:-1] if harm == "truncated" else b"\0" + content[1:])
    hub.forget()
    resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert hub.requested() == [WEIGHTS]
    assert weights.read_bytes() == fake_model()[WEIGHTS]
    assert (folder / "vocab.json").stat() == good


@pytest.mark.parametrize("checksums", ["listed", "not listed"])
def test_damage_that_hides_behind_an_old_time_is_found_by_a_full_check(
    hub: Hub, cache: Path, checksums: str
) -> None:
    hub.faults.list_without_checksums = checksums == "not listed"
    weights = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint) / WEIGHTS
    times = weights.stat()
    weights.write_bytes(b"\0" + fake_model()[WEIGHTS][1:])
    os.utime(weights, ns=(times.st_atime_ns, times.st_mtime_ns))
    hub.forget()
    damaged: list[str] = []
    for verify in ("quick", "full", "full"):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint, verify=verify, on_damaged=damaged.extend)
        assert hub.requested() == ([] if verify == "quick" else [WEIGHTS])
    assert damaged == [WEIGHTS]
    assert weights.read_bytes() == fake_model()[WEIGHTS]


@pytest.mark.usefixtures("hasty_client")
def test_damage_with_the_hub_down_leaves_the_good_files_for_the_next_attempt(hub: Hub, cache: Path) -> None:
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    (folder / WEIGHTS).write_bytes(b"damaged")
    hub.stop()
    with pytest.raises(HubUnavailable):
        resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert sorted(path.name for path in folder.iterdir()) == NEEDED


def test_damage_is_found_even_where_the_hub_lists_no_checksum(hub: Hub, cache: Path) -> None:
    hub.faults.list_without_checksums = True
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    (folder / "vocab.json").write_bytes(b'{"b": 0}')
    hub.forget()
    resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert hub.requested() == ["vocab.json"]
    assert (folder / "vocab.json").read_bytes() == fake_model()["vocab.json"]


def test_weights_the_hub_does_not_hold_are_removed_when_the_loader_would_prefer_them(
    hub: Hub, cache: Path
) -> None:
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    (folder / "model.safetensors").write_bytes(b"from an earlier revision")
    (folder / "vocab.json").unlink()
    resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert not (folder / "model.safetensors").exists()


def test_files_another_client_has_fetched_are_verified_and_kept(hub: Hub, cache: Path) -> None:
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    folder.with_name("master.manifest.json").unlink()
    hub.forget()
    resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert hub.requested() == []
    assert hub.listings > 0


def test_a_real_model_served_by_the_hub_loads_and_judges(hub: Hub, cache: Path, tmp_path: Path) -> None:
    made = write_folder(tmp_path / "made", SMALL["scaled-shared-resnet34"])
    hub.repositories[MODEL, "master"] = {path.name: path.read_bytes() for path in made.iterdir()}
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    (scores,) = EntailmentModel.load(folder).judge([Pair(Image.new("RGB", (64, 64), "red"), "a photo")])
    assert set(scores) == {"Yes", "No", "Maybe"}

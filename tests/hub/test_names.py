"""Model names: folders, hub ids and errors. No hub is contacted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from service.contract.errors import ModelNotFound, UnsupportedModel
from service.hub.resolve import DEMO_FOLDER, local_folder, resolve, shown_name
from tests.hub.conftest import NEEDED, fake_model, needs_demo

NOWHERE = "http://127.0.0.1:9"
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    for name in NEEDED:
        (path / name).write_bytes(fake_model()[name])
    return path


def test_a_folder_is_used_where_it_lies(folder: Path) -> None:
    assert resolve(str(folder), endpoint=NOWHERE) == folder
    assert sorted(path.name for path in folder.iterdir()) == NEEDED


def test_a_folder_may_be_given_relative_to_the_current_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert resolve("model", endpoint=NOWHERE) == folder
    monkeypatch.chdir(folder.parent.parent)
    assert resolve(f"{folder.parent.name}/model", endpoint=NOWHERE) == folder


def test_a_folder_may_be_given_from_home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    assert resolve("~/model", endpoint=NOWHERE) == folder


@pytest.mark.parametrize("gone", NEEDED)
def test_an_incomplete_folder_is_refused_naming_what_it_lacks(folder: Path, gone: str) -> None:
    (folder / gone).unlink()
    with pytest.raises(UnsupportedModel, match=gone) as raised:
        resolve(str(folder), endpoint=NOWHERE)
    assert not [name for name in NEEDED if name != gone and name in raised.value.message]


def test_an_empty_folder_is_refused_naming_everything(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"configuration\.json.*model\.safetensors or pytorch_model"):
        resolve(str(tmp_path), endpoint=NOWHERE)


@pytest.mark.parametrize(
    "model",
    [
        "/no/such/folder",
        "/nowhere",
        "./nowhere",
        "./some/where",
        "../nowhere",
        "~/nowhere/here",
        "~nobody-of-that-name/x",
        "a/b/c",
        "name/",
        r"C:\models\ofa",
    ],
)
def test_what_looks_like_a_path_and_is_not_there_is_a_folder_not_found(model: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="folder not found"):
        resolve(model, cache_dir=tmp_path, endpoint=NOWHERE)


@pytest.mark.parametrize("model", ["demo2", "owner/na me", "owner/näme", "-x/y", "", "Demo"])
def test_what_is_neither_a_folder_nor_an_id_is_refused(model: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="neither demo nor a folder nor a hub id"):
        resolve(model, cache_dir=tmp_path, endpoint=NOWHERE)


def test_a_file_instead_of_a_folder_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    with pytest.raises(ModelNotFound, match="is a file"):
        resolve("model/vocab.json", endpoint=NOWHERE)


@pytest.mark.parametrize("revision", ["../../etc", "a b", "/master", "", "a//b", ".hidden"])
def test_a_revision_cannot_lead_out_of_the_cache(revision: str, tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="revision"):
        resolve("iic/model", revision=revision, cache_dir=tmp_path / "cache", endpoint=NOWHERE)
    assert not (tmp_path / "cache").exists()


def test_the_shown_name_is_a_folder_s_last_part_or_the_hub_id(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.chdir(folder)
    names = [shown_name(model) for model in (str(folder), "~/model", ".", "demo", "iic/ofa", "/no/such", "")]
    assert names == ["model", "model", "model", "demo", "iic/ofa", "/no/such", ""]
    assert [local_folder(model) for model in ("~/model", "iic/ofa", "")] == [folder, None, None]


@needs_demo
def test_demo_is_the_bundled_model() -> None:
    assert resolve("demo", endpoint=NOWHERE) == DEMO_FOLDER


def test_a_folder_needs_neither_the_hub_client_nor_torch(folder: Path) -> None:
    program = (
        "import sys; from service.hub.resolve import resolve; resolve(sys.argv[1]); "
        "print({'modelscope', 'modelscope_hub', 'torch', 'requests'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=True)
    assert done.stdout.strip() == "set()"

"""A loopback hub with a small fake model, an empty cache, and a client with short timeouts."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab.instances.hub import Hub
from service.hub import model_folder
from service.hub.resolve import DEMO_FOLDER

MODEL = "iic/fake_visual-entailment"
WEIGHTS = "pytorch_model.bin"
NEEDED = ["ans2label.json", "config.json", "configuration.json", "merges.txt", WEIGHTS, "vocab.json"]


PATIENCE = 120.0  # seconds until a test gives up waiting

needs_demo = pytest.mark.skipif(
    not any((DEMO_FOLDER / name).is_file() for name in model_folder.WEIGHTS),
    reason="the demo model has not been trained yet",
)


def fake_model(seed: int = 0) -> dict[str, bytes]:
    """The files of a repository, including some that the service does not need."""
    configuration = {"model": {"type": "ofa", "answer2label": "ans2label.json"}}
    return {
        "configuration.json": json.dumps(configuration).encode(),
        "config.json": b'{"d_model": 8}',
        "vocab.json": b'{"a": 0}',
        "merges.txt": b"#version: 0.2\n",
        "ans2label.json": b'{"no": 0, "yes": 1, "maybe": 2}',
        WEIGHTS: random.Random(seed).randbytes(1 << 20),
        "README.md": b"# words\n",
        "resources/picture.png": b"not needed",
        "onnx/model.onnx": b"not needed either",
    }


def wait_for_partial(cache: Path) -> Path:
    """The partial file of an unfinished download, once the client has written some of it."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        for path in cache.rglob(f"{WEIGHTS}.incomplete"):
            if path.stat().st_size:
                return path
        time.sleep(0.01)
    raise AssertionError("the client wrote nothing")


@pytest.fixture
def hub() -> Iterator[Hub]:
    with Hub() as server:
        server.repositories[MODEL, "master"] = fake_model()
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def hasty_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable the client's own retries, which it configures from the environment at import."""
    from modelscope_hub import _download, _legacy_api

    monkeypatch.setattr(_legacy_api, "REPO_TREE_PAGE_MAX_ATTEMPTS", 1)
    monkeypatch.setattr(_download, "DOWNLOAD_RETRY_TIMES", 0)
    monkeypatch.setattr(_download, "DOWNLOAD_INTEGRITY_RETRY_BACKOFF", 0.01)

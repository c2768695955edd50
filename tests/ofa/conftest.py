"""Random-weight model folders for the tests of the network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image, ImageDraw

from lab.parity.folders import SMALL, write_folder
from ofa.model import EntailmentModel

FolderCopy = Callable[[], Path]


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model folder with random weights. Read-only by convention: copy it to change it."""
    return write_folder(tmp_path_factory.mktemp("random-model"), SMALL["defaults-resnet18"])


@pytest.fixture
def folder_copy(random_folder: Path, tmp_path: Path) -> Path:
    """A copy of the random folder that a test may damage."""
    return Path(shutil.copytree(random_folder, tmp_path / "model"))


@pytest.fixture(scope="session")
def model(random_folder: Path) -> EntailmentModel:
    return EntailmentModel.load(random_folder)


@pytest.fixture(scope="session")
def picture() -> Image.Image:
    image = Image.new("RGB", (90, 60), "white")
    ImageDraw.Draw(image).ellipse((20, 10, 60, 50), fill="red")
    return image

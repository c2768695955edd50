"""Load a model for a command, without the service around it."""

from __future__ import annotations

import hashlib
from pathlib import Path

from service.contract.errors import DamagedFile, DamagedFolder, ServiceError, TransientLoadError
from service.hub import model_folder
from service.hub import resolve as hub
from service.hub.progress import terminal_bar
from service.inference.native import NativePredictor
from service.settings import Settings


def load(settings: Settings) -> tuple[NativePredictor, Path]:
    """Load the model; return it and its folder. Raises ServiceError."""
    try:
        return _load(settings)
    except ServiceError:
        raise
    except Exception as error:
        raise TransientLoadError(f"Unexpected {type(error).__name__} while loading the model.") from error


def _load(settings: Settings) -> tuple[NativePredictor, Path]:
    model = NativePredictor(
        device=settings.device,
        dtype=settings.dtype,
        guard=settings.precision_guard == "on",
        cache=hub.converted_cache(),
    )
    folder = _folder(settings, "quick")
    try:
        model.load(folder)
    except DamagedFile as error:
        if hub.local_folder(settings.model) is not None:
            raise DamagedFolder(error.message) from error
        folder = _folder(settings, "full")  # finds and re-fetches damage that sizes and times hide
        model.load(folder)
    return model, folder


def _folder(settings: Settings, verify: str) -> Path:
    with terminal_bar() as show:
        return hub.resolve(settings.model, progress=show, verify=verify)


def fingerprint(folder: Path) -> str:
    """Return a SHA-256 of the files of ``folder`` that decide a verdict. Raises OSError."""
    digest = hashlib.sha256()
    for path in (*map(folder.joinpath, model_folder.REQUIRED), model_folder.weights(folder)):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()

"""From the name of a picture in a list to its bytes or path."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from batch.archive import Archive


class Pictures(Protocol):
    """Thread-safe."""

    def open(self, image: str) -> bytes | Path:
        """Return the picture file. Raises InputError: ``no_image``, ``image_elsewhere``,
        ``image_bytes_too_large``, ``image_unreadable``."""


class DataUrls:
    """Pictures that the list holds itself, as ``data:`` URLs in base64, of at most ``max_bytes``."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def open(self, image: str) -> bytes:
        raise NotImplementedError


class ZipPictures:
    """Members of an archive, relative to ``folder`` in it, else to its root; and ``data:`` URLs."""

    def __init__(self, archive: Archive, max_bytes: int, folder: str = "") -> None:
        raise NotImplementedError

    def open(self, image: str) -> bytes:
        raise NotImplementedError


class FolderPictures:
    """Paths relative to ``base``, and ``data:`` URLs: for local runs."""

    def __init__(self, base: Path, max_bytes: int) -> None:
        raise NotImplementedError

    def open(self, image: str) -> bytes | Path:
        raise NotImplementedError

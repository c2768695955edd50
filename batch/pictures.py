"""From the name of a picture in a list to its bytes or path."""

from __future__ import annotations

import base64
import binascii
import posixpath
import re
import unicodedata
from pathlib import Path
from typing import Final, Protocol

from batch.archive import MAX_NAME, Archive
from service.contract.causes import InputCode
from service.contract.errors import InputError

_DATA_URL: Final = re.compile(r"data:[\w.+/-]{0,100}(;[\w=.+-]{0,100})*;base64,", re.IGNORECASE | re.ASCII)
_ADDRESS: Final = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)


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
        head = _DATA_URL.match(image)
        if head is None:
            raise _elsewhere("Send the picture in a zip with the list, or as a data: URL in base64.")
        if (len(image) - head.end()) * 3 // 4 > self._max_bytes + 2:
            raise InputError(
                f"The picture has more than {self._max_bytes} bytes.",
                code=InputCode.IMAGE_BYTES_TOO_LARGE,
                remedy="Make it smaller.",
                limit=self._max_bytes,
            )
        try:
            return base64.b64decode(image[head.end() :], validate=True)
        except (binascii.Error, ValueError) as error:
            raise InputError(
                "The data: URL is not in base64.",
                code=InputCode.IMAGE_UNREADABLE,
                remedy="Encode the picture again.",
            ) from error


class ZipPictures:
    """Members of an archive, relative to ``folder`` in it, else to its root; and ``data:`` URLs."""

    def __init__(self, archive: Archive, max_bytes: int, folder: str = "") -> None:
        self._archive = archive
        self._max_bytes = max_bytes
        self._folder = folder
        self._names = frozenset(archive.names)
        self._urls = DataUrls(max_bytes)

    def open(self, image: str) -> bytes:
        if image[:5].lower() == "data:":
            return self._urls.open(image)
        name = unicodedata.normalize("NFC", image[: MAX_NAME + 1].replace("\\", "/"))
        for folder in (self._folder, ""):
            found = posixpath.normpath(posixpath.join(folder, name))
            if len(image) <= MAX_NAME and found in self._names:
                return self._archive.read(found, self._max_bytes)
        if name.startswith("/") or ".." in name.split("/") or _ADDRESS.match(name):
            raise _elsewhere("Name a picture in the zip.")
        raise InputError(
            "The zip has no such picture.", code=InputCode.NO_IMAGE, remedy="Check the name, or add the file."
        )


class FolderPictures:
    """Paths relative to ``base``, and ``data:`` URLs: for local runs. The reading checks the file."""

    def __init__(self, base: Path, max_bytes: int) -> None:
        self._base = base
        self._urls = DataUrls(max_bytes)

    def open(self, image: str) -> bytes | Path:
        return self._urls.open(image) if image[:5].lower() == "data:" else self._base / image


def _elsewhere(remedy: str) -> InputError:
    return InputError(
        "The picture is not part of what was sent.", code=InputCode.IMAGE_ELSEWHERE, remedy=remedy
    )

"""Checks of a weight file: the size of its header before loading, and its checksums.

``torch.save`` writes a ZIP archive with a CRC-32 of each tensor, but ``torch.load`` does not verify them: a
file with corrupt tensor data loads without error. These are the only checksums of a local model folder.

In every format a header lists the tensors. Libraries parse it into objects many times its size, so its size
is limited first.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
import zlib
from pathlib import Path
from typing import Final

#: Limit for each header in bytes: safetensors' header, an archive's pickle and its directory. Those of the
#: published large model have 140,000 bytes.
MAX_HEAD: Final = 4 << 20
_BLOCK: Final = 4 << 20
_OLD_PICKLES: Final = 5  # at the start of files written before torch 1.6


class _TooLarge(Exception):
    pass


class _Bounded(io.FileIO):
    """Reads at most MAX_HEAD bytes at once; zipfile reads an archive's directory in one call."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(MAX_HEAD + 1 if size is None or size < 0 else min(size, MAX_HEAD + 1))
        if len(data) > MAX_HEAD:
            raise _TooLarge
        return data


def head_fits(path: Path) -> bool:
    """Whether the headers of a weight file are within MAX_HEAD, using memory proportional to MAX_HEAD.

    Raises OSError; for a damaged header BadZipFile, or what its parser raises.
    """
    with path.open("rb") as file:
        start = file.read(8)
        if path.suffix == ".safetensors":
            length = int.from_bytes(start, "little")
            if length > path.stat().st_size:
                raise ValueError("the header is longer than the file")
            return length <= MAX_HEAD
        if start.startswith(b"PK\3\4"):  # torch's own test for the format
            return _directory_fits(path)
        file.seek(0)
        old = io.BytesIO(file.read(MAX_HEAD))
    for _ in range(_OLD_PICKLES):
        for _ in pickletools.genops(old):
            pass
    return True


def _directory_fits(path: Path) -> bool:
    size = path.stat().st_size
    try:
        with _Bounded(path) as file, zipfile.ZipFile(file) as archive:
            parts = archive.infolist()
    except _TooLarge:
        return False
    if sum(part.file_size for part in parts) > size:  # compressed (torch never does) or overlapping
        raise zipfile.BadZipFile("the parts declare more bytes than the file has")
    return all(part.file_size <= MAX_HEAD for part in parts if "/data/" not in part.filename)


def damaged(path: Path) -> bool:
    """Whether ``path`` is an archive in which some part does not match its checksum.

    False for other formats, and if no part matches, since torch can be configured to write no checksums.
    Reads the whole file, at about 1 GB/s. Raises OSError.
    """
    if not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = [_differs(archive, part) for part in archive.infolist() if part.file_size]
    except (zipfile.BadZipFile, NotImplementedError, zlib.error):
        return True
    return any(wrong) and not all(wrong)


def _differs(archive: zipfile.ZipFile, part: zipfile.ZipInfo) -> bool:
    try:
        with archive.open(part) as stream:
            while stream.read(_BLOCK):
                pass
    except zipfile.BadZipFile:
        return True
    return False

"""What a weight file says about itself, read before and after torch reads it.

``torch.save`` writes a ZIP archive with a CRC-32 of each tensor, and ``torch.load`` never compares them: a
file with wrong bytes in the middle of a tensor loads, and answers. A model from a hub is proven by the hub's
checksums; a folder of one's own has no others than these.

Every format names its tensors in a head that the libraries read whole and turn into objects of many times
its size, so the head is measured first.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
import zlib
from pathlib import Path
from typing import Final

#: The largest head of a weight file, in bytes: safetensors' header, the pickle in an archive and its list of
#: parts. The published large model's have 140,000 bytes each.
MAX_HEAD: Final = 4 << 20
_BLOCK: Final = 4 << 20
_OLD_PICKLES: Final = 5  # at the start of the format before torch 1.6


class _TooLarge(Exception):
    pass


class _Bounded(io.FileIO):
    """Reads no more than MAX_HEAD bytes at once, as an archive's list of parts is read."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(MAX_HEAD + 1 if size is None or size < 0 else min(size, MAX_HEAD + 1))
        if len(data) > MAX_HEAD:
            raise _TooLarge
        return data


def head_fits(path: Path) -> bool:
    """Whether the head of a weight file is no larger than MAX_HEAD. Takes memory in proportion to MAX_HEAD.

    Raises OSError; for a damaged head BadZipFile, or whatever its parser raises.
    """
    with path.open("rb") as file:
        start = file.read(8)
        if path.suffix == ".safetensors":
            length = int.from_bytes(start, "little")
            if length > path.stat().st_size:
                raise ValueError("the head is longer than the file")
            return length <= MAX_HEAD
        if start.startswith(b"PK\3\4"):  # as torch tells the formats apart
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
    if sum(part.file_size for part in parts) > size:  # compressed, which torch's are not, or overlapping
        raise zipfile.BadZipFile("the parts claim more bytes than there are")
    return all(part.file_size <= MAX_HEAD for part in parts if "/data/" not in part.filename)


def damaged(path: Path) -> bool:
    """Whether ``path`` is such an archive and some part of it differs from its checksum.

    False for files of other formats, which have none, and for an archive of which no part agrees: torch can
    be told to write no checksums. Reads the whole file, about a gigabyte a second. Raises OSError.
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

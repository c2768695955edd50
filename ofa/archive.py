"""The checksums that a weight file of torch carries itself.

``torch.save`` writes a ZIP archive with a CRC-32 of each tensor, and ``torch.load`` never compares them: a
file with wrong bytes in the middle of a tensor loads, and answers. A model from a hub is proven by the hub's
checksums; a folder of one's own has no others than these.
"""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path
from typing import Final

_BLOCK: Final = 4 << 20


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

"""The folder of served batches: private, on a local file system, with a share of it left free."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path
from typing import Final

from batch.limits import RESERVE, RESERVE_FRACTION

MOUNTS: Final = Path("/proc/self/mounts")
#: SQLite's locks and shared memory do not work between hosts, and a stall of the network would be ours.
_NETWORK: Final = re.compile(
    r"nfs\d?|cifs|smb\d?|smbfs|afs|ceph|lustre|gpfs|beegfs|glusterfs|gfs2|ocfs2|9p|ncpfs|orangefs"
    r"|fuse\.(?!fuse-overlayfs$).+"
)
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
#: The disk, the quota or the largest allowed file is full.
FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Unusable(Exception):
    """The folder cannot hold batches. ``reason``: network, folder, wal, disk_full or error."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


def prepare(folder: Path, mounts: Path = MOUNTS) -> None:
    """Create the folder for its owner alone. ``mounts`` lists the mounted file systems. Raises Unusable."""
    kind = filesystem(folder, mounts)
    if _NETWORK.fullmatch(kind):
        raise Unusable("network", kind)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise Unusable("folder")
        folder.chmod(0o700)
    except OSError as error:
        raise unusable(error) from error


def unusable(error: OSError) -> Unusable:
    """Return ``error`` as an Unusable."""
    if error.errno in FULL:
        return Unusable("disk_full")
    return Unusable("folder", errno.errorcode.get(error.errno or 0, type(error).__name__))


def filesystem(folder: Path, mounts: Path = MOUNTS) -> str:
    """Return the type of the file system that holds ``folder``, "" if unknown."""
    real = Path(os.path.realpath(folder))
    best, kind = -1, ""
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return ""
    for line in lines:
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        place = Path(_ESCAPE.sub(lambda found: chr(int(found[1], 8)), fields[1]))
        if real.is_relative_to(place) and len(place.parts) >= best:  # the last mount of a place counts
            best, kind = len(place.parts), fields[2]
    return kind


def room(folder: Path) -> int:
    """Return how many more bytes may be written, the reserve excluded. Raises OSError."""
    disk = os.statvfs(folder)
    reserve = min(RESERVE, int(disk.f_blocks * disk.f_frsize * RESERVE_FRACTION))
    return max(0, disk.f_bavail * disk.f_frsize - reserve)

"""The cgroups (v1 and v2) of this process, and the limit that they put on its processor time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")


def groups(controller: str, cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> Iterator[tuple[Path, bool]]:
    """Folders of our cgroups for a v1 ``controller`` and for v2, with all visible ancestors, innermost first;
    and whether each is v2."""
    try:
        lines = own.read_text("utf-8", "replace").splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        unified = controllers == ""
        if unified:
            base = cgroups / "unified" if (cgroups / "unified").is_dir() else cgroups
        elif controller in controllers.split(","):
            base = cgroups / controller
        else:
            continue
        # In a container the path may be the host's, which is not mounted; the root is then our own group.
        folder = base / path.lstrip("/")
        while True:
            yield folder, unified
            if folder == base or base not in folder.parents:
                break
            folder = folder.parent


def core_limit(cgroups: Path = CGROUPS, own: Path = OWN_CGROUPS) -> int:
    """Cores that a cgroup's quota of processor time allows, rounded up; 0 if that limits nothing.

    torch starts a thread for each core that the process may run on, and ignores such quotas: with more
    threads than the quota pays for, all of them stop together for the rest of every period. 0 as well with
    ``OMP_NUM_THREADS``, which torch follows.
    """
    limits = []
    for folder, unified in groups("cpu", cgroups, own):
        with suppress(OSError, ValueError, ZeroDivisionError):  # ValueError for "max": no limit
            if unified:
                quota, period = map(int, (folder / "cpu.max").read_text("utf-8", "replace").split())
            else:
                quota, period = (
                    int((folder / name).read_text("utf-8", "replace"))
                    for name in ("cpu.cfs_quota_us", "cpu.cfs_period_us")
                )
            if quota > 0:  # -1: no limit
                limits.append(-(-quota // period))
    if not limits or "OMP_NUM_THREADS" in os.environ:
        return 0
    return limit if (limit := min(limits)) < len(os.sched_getaffinity(0)) else 0

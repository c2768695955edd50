"""The process that makes and checks int8 weights. Arguments: folder, cache, pairs, threads, niceness, parent.

It is the first to be killed when memory is short, and ends with its parent. Its result is the record beside
the weights. Exit status 0: done, whatever the result.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from ofa.int8_check import make
from ofa.int8_file import Int8File

_PR_SET_PDEATHSIG: Final = 1  # prctl.h
_FIRST_TO_DIE: Final = "1000"


def _settle(niceness: int, parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent exited before prctl
        os._exit(1)
    with suppress(OSError):
        os.nice(niceness)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_DIE)


def _main(folder: Path, cache: Path, pairs: int, threads: int) -> int:
    file = Int8File(folder, cache)
    cache.mkdir(parents=True, exist_ok=True)
    with file.path.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another instance that shares the cache may be at it
        known = file.check()
        if known is not None and known.pairs >= pairs and file.current:
            return 0
        return 0 if make(folder, cache, pairs, threads) is not None else 1


if __name__ == "__main__":
    _folder, _cache, _pairs, _threads, _niceness, _parent = sys.argv[1:]
    _settle(int(_niceness), int(_parent))
    sys.exit(_main(Path(_folder), Path(_cache), int(_pairs), int(_threads)))

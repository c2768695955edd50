"""The process that makes and checks int8 weights; its arguments are folder, cache, pairs and its parent.

It has the lowest priority, is the first to be killed when memory is short, and ends with its parent. Its
result is the record beside the weights. Exit status 0: done, whatever the result.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Final

from ofa.int8_check import make

_PR_SET_PDEATHSIG: Final = 1  # prctl.h
_LOWEST_PRIORITY, _FIRST_TO_DIE = 19, "1000"


def _settle(parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent exited before prctl
        os._exit(1)
    with suppress(OSError):
        os.nice(_LOWEST_PRIORITY)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_DIE)


if __name__ == "__main__":
    _folder, _cache, _pairs, _parent = sys.argv[1:]
    _settle(int(_parent))
    sys.exit(0 if make(Path(_folder), Path(_cache), int(_pairs)) is not None else 1)

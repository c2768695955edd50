"""How the C library gives out memory: tuned once for tensors that come and go by the hundred."""

from __future__ import annotations

import ctypes
from contextlib import suppress

# glibc's malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 32 << 20  # bytes; the most that glibc takes for M_MMAP_THRESHOLD
_KEPT = 256 << 20  # bytes of freed memory at the top that are not given back


def keep_freed_tensors() -> None:
    """Have freed tensors' memory used again instead of given back to the kernel and asked for anew.

    By default glibc maps every tensor of more than 128 kB freshly, and the kernel clears each of its pages:
    at the large size that takes a tenth of a verdict's time. Does nothing with another C library.
    """
    with suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)

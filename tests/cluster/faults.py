"""Inject a fault into a cluster under load, and time what follows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from lab.instances.guarded import wait_for
from lab.instances.load import Load

SOME = 20  # calls before and after a fault


@contextmanager
def fault(
    name: str, load: Load, inject: Callable[[], object], found: Callable[[], bool], healed: Callable[[], bool]
) -> Iterator[float]:
    """Inject a fault and wait until it is found and healed; yield when it was found, in monotonic seconds.

    Prints the figures.
    """
    load.more(SOME)
    began = time.monotonic()
    inject()
    wait_for(f"{name} to be found", found, lambda: load.lost)
    at = time.monotonic()
    yield at
    wait_for(f"{name} to be healed", healed, lambda: load.lost)
    over = time.monotonic()
    load.more(SOME)
    calls = load.calls
    lost = Counter(call.result for call in load.lost)
    print(
        f"{name}: found after {at - began:.1f} s, healed after {over - began:.1f} s, "
        f"lost {lost.total()} of {len(calls)} {dict(lost)}"
    )

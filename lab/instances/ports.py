"""Find free TCP ports."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

# The kernel uses ports of this range for outgoing connections. None is chosen from it, since a
# connection could take the port before the server starts.
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_240

_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Return ``count`` different ports on 127.0.0.1, free now and not returned before in this process.

    All are held until the last is found, so that a concurrent run does not get the same ones.
    """
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.SystemRandom().sample(_candidates(), k=len(_candidates())):
            if len(ports) == count:
                break
            listener = held.enter_context(socket.socket())
            with suppress(OSError):
                listener.bind(("127.0.0.1", port))
                _given.add(port)
                ports.append(port)
    assert len(ports) == count, "no port is free"
    return ports


def free_range(count: int) -> int:
    """Return the first of ``count`` ports in a row on 127.0.0.1, free now and not returned before."""
    candidates = set(_candidates())
    for first in random.SystemRandom().sample(sorted(candidates), k=len(candidates)):
        wanted = range(first, first + count)
        if not candidates.issuperset(wanted):
            continue
        with ExitStack() as held, suppress(OSError):
            for port in wanted:
                held.enter_context(socket.socket()).bind(("127.0.0.1", port))
            _given.update(wanted)
            return first
    raise AssertionError("no range of ports is free")


def _candidates() -> list[int]:
    try:
        first = int(EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    # On a machine whose ephemeral range starts very low there is no port below it to choose.
    return [port for port in range(LOWEST, first if first > LOWEST + 1000 else 60_000) if port not in _given]

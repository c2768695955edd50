"""Free TCP ports for servers that tests start."""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack, suppress
from pathlib import Path

# Seconds pass between the choice of a port and the start of its server. The kernel gives ports of this range
# to outgoing connections, such as those that ask whether the server is there yet: none is taken from it.
EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST = 10_240

_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """``count`` different ports on 127.0.0.1, free now and not given out before in this run.

    All are held until the last is found, so that a run beside this one is not given the same.
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


def _candidates() -> list[int]:
    try:
        first = int(EPHEMERAL.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        first = 32_768
    # A machine may have widened the kernel's range down to the lowest ports; then there is no other choice.
    return [port for port in range(LOWEST, first if first > LOWEST + 1000 else 60_000) if port not in _given]

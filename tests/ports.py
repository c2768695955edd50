"""Free TCP ports for servers that tests start."""

from __future__ import annotations

import socket
from contextlib import ExitStack

_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """``count`` different ports on 127.0.0.1, free now and not given out before in this run.

    All are held open until the last is found, so that one call cannot return a port twice.
    """
    ports: list[int] = []
    with ExitStack() as held:
        while len(ports) < count:
            listener = held.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            if port not in _given:
                _given.add(port)
                ports.append(port)
    return ports

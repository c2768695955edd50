"""The guardian's channel as the guardian asks it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from service.health.channel import SOCKET


def ask(run_dir: Path) -> dict[str, str]:
    """What the guardian is told. Raises OSError where nobody answers."""
    folder = os.open(run_dir, os.O_RDONLY)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(60)
            sock.connect(f"/proc/self/fd/{folder}/{SOCKET}")
            sock.sendall(b"GET /guardian HTTP/1.0\r\n\r\n")
            answer = b""
            while part := sock.recv(4096):
                answer += part
    finally:
        os.close(folder)
    head, _, body = answer.decode().partition("\r\n\r\n")
    if not head.startswith("HTTP/1.0 200"):
        raise OSError(head)
    return dict(line.split("=", 1) for line in body.splitlines())

"""HTTP requests byte for byte, which no client library would send."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from tests.fakes import PATIENCE

Sent = bytes | Iterable[bytes]


@dataclass(frozen=True)
class Answer:
    """The response; ``status`` is 0 if the connection was closed without one."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


def connected(base: str) -> socket.socket:
    """Connect to the server at ``base``."""
    address = urlsplit(base)
    return socket.create_connection((address.hostname, address.port), PATIENCE)


def exchange(base: str, *sent: Sent) -> Answer:
    """Send, and read until the server closes, which may happen before everything is sent."""
    with connected(base) as connection:
        with suppress(ConnectionError):
            for piece in sent:
                for data in [piece] if isinstance(piece, bytes) else piece:
                    connection.sendall(data)
        received = b""
        with suppress(ConnectionError):
            while more := connection.recv(65536):
                received += more
    return _parsed(received)


def request(
    method: str, path: str, *headers: str, body: bytes = b"", host: str = "127.0.0.1", close: bool = True
) -> bytes:
    """Build a request; a body gets a Content-Length unless ``headers`` have the framing."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: {host}", *headers]
    framed = any(line.lower().startswith(("content-length", "transfer-encoding")) for line in headers)
    lines += [f"Content-Length: {len(body)}"] if body and not framed else []
    lines += ["Connection: close"] if close else []
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def chunks(*pieces: bytes) -> Iterable[bytes]:
    """Encode a chunked body."""
    for piece in pieces:
        yield b"%x\r\n%s\r\n" % (len(piece), piece)
    yield b"0\r\n\r\n"


def form(content: bytes, disposition: str = 'form-data; name="files"; filename="a.png"') -> bytes:
    """Build the body of an upload, with the boundary XX."""
    head = f"--XX\r\nContent-Disposition: {disposition}\r\n\r\n".encode("latin-1")
    return head + content + b"\r\n--XX--\r\n"


FORM = "Content-Type: multipart/form-data; boundary=XX"
JSON = "Content-Type: application/json"


def _parsed(received: bytes) -> Answer:
    head, _, body = received.partition(b"\r\n\r\n")
    lines = head.decode("latin-1").split("\r\n")
    if not head:
        return Answer(0, {}, b"")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    if headers.get("transfer-encoding") == "chunked":
        body = b"".join(_dechunked(body))
    return Answer(int(lines[0].split()[1]), headers, body)


def _dechunked(body: bytes) -> Iterable[bytes]:
    while body:
        size, _, body = body.partition(b"\r\n")
        if not (length := int(size, 16)):
            return
        yield body[:length]
        body = body[length + 2 :]

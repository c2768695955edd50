"""A picture file on its way to the engine, and the form that carries it with its texts."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from service.contract.request import Pair, Request

_CHUNK: Final = 1 << 18


class PictureFile:
    """The bytes of a picture file as sent. Their memory counts until ``close``, or until the last reference
    is gone; ``on_close`` ends that and may be called twice."""

    __slots__ = ("__weakref__", "content", "on_close")

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.on_close: Callable[[], object] = lambda: None

    def close(self) -> None:
        """Drop the bytes: what else refers to them may wait for the garbage collector."""
        self.content = b""
        self.on_close()


@dataclass(frozen=True, slots=True)
class FilePair(Pair):
    """A pair whose picture is a file for the engine to decode; ``image`` is a placeholder."""

    file: PictureFile = field(default_factory=lambda: PictureFile(b""))


class Form:
    """The body of POST /v1/judge, which can be sent more than once."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        first = pairs[0]
        assert isinstance(first, FilePair)
        boundary = secrets.token_hex(16)
        self.content_type = f"multipart/form-data; boundary={boundary}"
        fields = [("text", one.hypothesis) for one in pairs]
        if first.premise is not None:
            fields.append(("premise", first.premise))
        head = "".join(f"--{boundary}\r\n{_named(name)}\r\n\r\n{text}\r\n" for name, text in fields)
        head += f'--{boundary}\r\n{_named("image")}; filename="picture"\r\n\r\n'
        self._head = head.encode()
        self._file = first.file
        self._tail = f"\r\n--{boundary}--\r\n".encode()

    @property
    def size(self) -> int:
        return len(self._head) + len(self._file.content) + len(self._tail)

    async def pieces(self) -> AsyncIterator[bytes]:
        content = self._file.content
        yield self._head
        for start in range(0, len(content), _CHUNK):
            yield content[start : start + _CHUNK]
        yield self._tail


def with_premise(request: Request) -> Request:
    """Return the request with its text as the premise, too."""
    return replace(request, pair=replace(request.pair, premise=request.pair.hypothesis))


def close(request: Request) -> None:
    """Free the picture of a request that is over."""
    if isinstance(request.pair, FilePair):
        request.pair.file.close()


def _named(name: str) -> str:
    return f'Content-Disposition: form-data; name="{name}"'

"""One reader seen from its parent: the process, the socket to it, and bounded waits."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from service.intake.reader_child import LENGTH

ROOT: Final = Path(__file__).resolve().parents[2]
#: Runs the child with this process's import path, without its environment or ``__main__``.
START: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); "
    "from service.intake.reader_child import main; main()"
)
#: Added to the dynamic loader's variables. Blocks of 16 MiB, which Pillow allocates for large pictures, are
#: returned to the system at once; smaller ones are reused, which saves a typical picture 2 ms of page faults.
#: NumPy's BLAS must not start threads.
ENVIRONMENT: Final = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_THRESHOLD_": "16000000",
    "MALLOC_TRIM_THRESHOLD_": "8000000",
    "OPENBLAS_NUM_THREADS": "1",
    "LC_ALL": "C.UTF-8",
}
_MESSAGE_BYTES: Final = 1 << 16
_PAYLOAD_BYTES: Final = 1 << 28


class ReaderEnded(Exception):
    """The process has exited or violated the protocol."""


class ReaderSilent(Exception):
    """No answer by the deadline."""


def command() -> list[str]:
    """The command line that starts a reader for this process."""
    path = [str(ROOT), *(os.path.abspath(entry) for entry in sys.path)]
    flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
    return [sys.executable, *flags, "-c", START, str(os.getpid()), json.dumps(path)]


class ReaderProcess:
    """Used by one thread at a time; ``kill`` may be called by any.

    Attributes:
        usable: whether it is waiting for a picture; False while it has one.
    """

    def __init__(self, command: Sequence[str]) -> None:
        """Start it. Raises OSError."""
        self._socket, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = subprocess.Popen(
                    list(command),
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={name: value for name, value in os.environ.items() if name[:3] == "LD_"}
                    | ENVIRONMENT,
                    # Shields it from Ctrl-C. In a session of its own, its niceness would not count.
                    process_group=0,
                )
        except BaseException:
            self._socket.close()
            raise
        self.usable = True
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it is still running. Reaps it if not."""
        return self._process.poll() is None

    def wait_ready(self, deadline: float) -> None:
        """Wait until it has started. Raises ReaderEnded and ReaderSilent."""
        if not self._ready:
            self._ready = self._receive(deadline)[0].get("ready") is True

    def send(self, message: dict[str, Any], payload: bytes, deadline: float) -> None:
        """Send. ``deadline`` is a ``time.monotonic()`` value. Raises ReaderEnded and ReaderSilent."""
        self.usable = False
        text = json.dumps(message).encode()
        for part in (LENGTH.pack(len(text)) + text, payload):
            with self._until(deadline):
                self._socket.sendall(part, socket.MSG_NOSIGNAL)

    def reply(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        """The next message and its payload. Raises ReaderEnded and ReaderSilent."""
        reply, raw = self._receive(deadline)
        self.usable = "declared_bytes" not in reply and "spent" not in reply
        return reply, raw

    def kill(self) -> None:
        """Kill it without waiting."""
        with suppress(OSError):
            self._process.kill()

    def status(self, seconds: float) -> int | None:
        """Wait up to ``seconds`` for its exit status, negative for a signal; None if it is still running."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def close(self) -> None:
        """Close the socket, which makes a waiting reader exit."""
        self._socket.close()

    def _receive(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size, deadline))
        try:
            if length > _MESSAGE_BYTES:
                raise ValueError("message too long")
            message = json.loads(self._exactly(length, deadline))
            if (size := message.get("bytes", 0)) > _PAYLOAD_BYTES:
                raise ValueError("payload too large")
            return message, self._exactly(size, deadline)
        except (ValueError, AttributeError, TypeError, OverflowError, MemoryError) as error:
            raise ReaderEnded("the reader violated the protocol") from error

    def _exactly(self, size: int, deadline: float) -> bytes:
        data = bytearray(size)
        left = memoryview(data)
        while left:
            with self._until(deadline):
                count = self._socket.recv_into(left)
            if not count:
                raise ReaderEnded("the reader has exited")
            left = left[count:]
        return bytes(data)

    @contextmanager
    def _until(self, deadline: float) -> Iterator[None]:
        """Bound a socket operation and map its errors."""
        try:
            self._socket.settimeout(max(0.0, deadline - time.monotonic()))
            yield
        except (TimeoutError, BlockingIOError) as error:  # the latter if the deadline has passed
            raise ReaderSilent("the reader did not answer in time") from error
        except OSError as error:
            raise ReaderEnded("the reader has exited") from error

"""One reader from its parent's side: the process, the socket to it, and bounded waits.

Waits use poll, since a service with many connections has descriptors beyond what select can hold.
"""

from __future__ import annotations

import json
import math
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from service.intake.reader_child import LENGTH

ROOT: Final = Path(__file__).resolve().parents[2]
#: Runs the child with this process's own import path, and nothing of its environment or ``__main__``.
START: Final = (
    "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); "
    "from service.intake.reader_child import main; main()"
)
#: Beside what the dynamic loader needs. Blocks of 16 MiB, of which Pillow makes large pictures, go back to
#: the machine at once; smaller ones are used again, which saves an ordinary picture 2 ms of page faults.
#: NumPy's library starts no threads.
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
    """The process has ended, or broke the protocol."""


class ReaderSilent(Exception):
    """No answer by the deadline."""


def command() -> list[str]:
    """What starts a reader of this process."""
    path = [str(ROOT), *(os.path.abspath(entry) for entry in sys.path)]
    flags = ["-I", "-S", *(["-B"] if sys.dont_write_bytecode else [])]
    return [sys.executable, *flags, "-c", START, str(os.getpid()), json.dumps(path)]


class ReaderProcess:
    """Asked by one thread at a time; ``kill`` may be called by any.

    Attributes:
        usable: whether it waits for a picture; False from when it is given one until it has answered.
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
                    # Out of reach of a Ctrl-C; no session of its own, in which its priority would not count.
                    process_group=0,
                )
        except BaseException:
            self._socket.close()
            raise
        self._socket.setblocking(False)
        self.usable = True
        self._ready = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it has not been seen to end. Reaps it if it has."""
        return self._process.poll() is None

    def wait_ready(self, deadline: float) -> None:
        """Wait until it has started. Raises ReaderEnded and ReaderSilent."""
        if not self._ready:
            self._ready = self._receive(deadline)[0].get("ready") is True

    def tell(self, message: dict[str, Any], payload: bytes, deadline: float) -> None:
        """Send. ``deadline`` is ``time.monotonic()``'s. Raises ReaderEnded and ReaderSilent."""
        self.usable = False
        text = json.dumps(message).encode()
        for part in (LENGTH.pack(len(text)) + text, payload):
            left = memoryview(part)
            while left:
                try:
                    left = left[self._socket.send(left, socket.MSG_NOSIGNAL) :]
                except BlockingIOError:
                    self._wait(select.POLLOUT, deadline)
                except OSError as error:
                    raise ReaderEnded("the reader has ended") from error

    def reply(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        """The next message and what follows it. Raises ReaderEnded and ReaderSilent."""
        reply, raw = self._receive(deadline)
        self.usable = "promise" not in reply and "spent" not in reply
        return reply, raw

    def kill(self) -> None:
        """End it at once, without waiting for it."""
        with suppress(OSError):
            self._process.kill()

    def status(self, seconds: float) -> int | None:
        """Its exit status once it has ended, negative for a signal; None if it runs on for ``seconds``."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(seconds)
        return None

    def close(self) -> None:
        """Close the socket, which ends a process that waits for a picture."""
        self._socket.close()

    def _receive(self, deadline: float) -> tuple[dict[str, Any], bytes]:
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size, deadline))
        try:
            if length > _MESSAGE_BYTES:
                raise ValueError("a message too long")
            message = json.loads(self._exactly(length, deadline))
            if (size := message.get("bytes", 0)) > _PAYLOAD_BYTES:
                raise ValueError("too many bytes")
            return message, self._exactly(size, deadline)
        except (ValueError, AttributeError, TypeError, OverflowError, MemoryError) as error:
            raise ReaderEnded("the reader broke the protocol") from error

    def _exactly(self, size: int, deadline: float) -> bytes:
        data = bytearray(size)
        left = memoryview(data)
        while left:
            try:
                count = self._socket.recv_into(left)
            except BlockingIOError:
                self._wait(select.POLLIN, deadline)
                continue
            except OSError as error:
                raise ReaderEnded("the reader has ended") from error
            if not count:
                raise ReaderEnded("the reader has ended")
            left = left[count:]
        return bytes(data)

    def _wait(self, event: int, deadline: float) -> None:
        poller = select.poll()
        poller.register(self._socket, event)
        if not poller.poll(math.ceil(1000 * max(0.0, deadline - time.monotonic()))):
            raise ReaderSilent("the reader did not answer in time")

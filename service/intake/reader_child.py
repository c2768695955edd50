"""A reader: a child process that decodes pictures, one at a time.

Started by reader_process.py. It imports Pillow but not the service, so that it starts fast and can be killed
at any time. A hostile picture can harm only this process: its CPU time and memory are limited, its priority
is below the service's, and the kernel's OOM killer selects it first.

Its standard input is a socket to the parent; its output is discarded. A message is a JSON object after its
length (4 bytes, big-endian); ``bytes`` in it is the number of raw bytes that follow. Seconds are CPU time.

    reader  {"ready": true}
    parent  {"bytes", "side", "max_pixels", "memory", "seconds"} and the file
    reader  {"declared_bytes"}: needs this many bytes of memory, more than "memory"; then
    parent  {"seconds"} to continue, or {} to drop the picture
    reader  {"size": [width, height], "bytes"} and RGB pixels of side × side
        or  {"code", "message", "facts"}, with "spent" if the reader then exits

It exits at the end of its input, and with its parent.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import resource
import signal
import socket
import struct
import sys
import time
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

from PIL import Image

from ofa import picture
from ofa.errors import ImageError

LENGTH: Final = struct.Struct(">I")
NICE: Final = 5
FIRST_TO_DIE: Final = "1000"  # /proc/self/oom_score_adj
SLACK: Final = 48 << 20  # bytes for Python itself and NumPy's buffers
_PR_SET_PDEATHSIG: Final = 1


def main() -> NoReturn:
    """Decode pictures until the parent exits."""
    _settle(parent=int(sys.argv[1]))
    channel = Channel(socket.socket(fileno=0))
    gc.collect()
    gc.freeze()  # later collections skip all current objects
    channel.send({"ready": True})
    while True:
        job, data = channel.receive()
        _limit_time(float(job["seconds"]))
        _limit_memory(int(job["memory"]) + 2 * len(data))
        try:
            reply, pixels = _read(channel, job, data)
        except ImageError as error:
            reply, pixels = {"code": error.code, "message": str(error), "facts": error.facts}, b""
        except MemoryError:
            text = "The picture needs more memory than its header declares."
            reply = {"code": "too_slow_to_read", "message": text, "facts": {}, "spent": True}
            pixels = b""
        _limit_time(0.0)
        _limit_memory(None)
        channel.send(reply, pixels)
        if "spent" in reply:
            os._exit(0)
        del data, pixels
        gc.collect()


def _read(channel: Channel, job: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return the reply to a job. Raises ImageError and MemoryError."""
    began = time.process_time()
    side = int(job["side"])
    header = picture.read(data, int(job["max_pixels"]))
    del data
    memory = header.memory(side)
    if memory > job["memory"]:
        channel.send({"declared_bytes": memory})
        answer, _ = channel.receive()
        if "seconds" not in answer:
            return {"dropped": True}, b""
        _limit_time(max(0.1, float(answer["seconds"]) - (time.process_time() - began)))
    if header.deep:
        import numpy  # noqa: F401  # before limiting the memory, since NumPy needs some
    _limit_memory(memory)
    upright = header.pixels()
    pixels = picture.square(upright, side).tobytes()
    return {"size": header.size, "upright": upright.size, "bytes": len(pixels)}, pixels


class Channel:
    """The blocking end of the socket."""

    def __init__(self, channel: socket.socket) -> None:
        self._socket = channel

    def send(self, message: dict[str, Any], payload: bytes = b"") -> None:
        text = json.dumps(message).encode()
        self._socket.sendall(LENGTH.pack(len(text)) + text)
        self._socket.sendall(payload)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """The next message and its payload. Exits when the parent is gone."""
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size))
        message: dict[str, Any] = json.loads(self._exactly(length))
        return message, self._exactly(message.get("bytes", 0))

    def _exactly(self, size: int) -> bytes:
        data = self._socket.recv(size, socket.MSG_WAITALL) if size else b""
        if len(data) < size:
            os._exit(0)
        return data


def _settle(parent: int) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the parent ends it by closing the socket
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the parent exited before prctl
        os._exit(0)
    with suppress(OSError):
        os.nice(NICE)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_DIE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    Image.MAX_IMAGE_PIXELS = None  # limited by each job


def _limit_time(seconds: float) -> None:
    """Kill this process after ``seconds`` more CPU time, even inside a decoder; 0 removes the limit."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_memory(more: int | None) -> None:
    """Make allocations beyond ``more`` bytes fail; None removes the limit."""
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    soft = hard
    if more is not None:
        with suppress(OSError):
            pages = int(Path("/proc/self/statm").read_text().split()[5])
            soft = pages * resource.getpagesize() + more + SLACK
            soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))

"""A child process that answers JSON lines, with bounded waits and no leaks.

No threads: one call writes the request and waits for the reply with `poll`, so a stopped, blocked or dead
child cannot block the caller. The child must exit at the end of its standard input; then it cannot outlive
this process.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

#: Longest pause between two calls of the cancel point, in seconds.
POLL_SECONDS = 0.02
CLOSE_SECONDS = 5.0
_CHUNK = 1 << 20


class ChildEnded(Exception):
    """The child exited; its pending request is lost."""


class ChildSilent(Exception):
    """The child did not reply in time."""


class ChildProcess:
    """One child, used by one thread at a time; any thread may call `kill` at any moment."""

    def __init__(
        self, command: Sequence[str], *, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        """Start `command` in `folder`. Raises OSError.

        Its standard error is discarded, since ModelScope may log user text there.
        """
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=None if environment is None else dict(environment),
            start_new_session=True,  # Ctrl-C goes only to the parent, and killpg reaches the child's children
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._replies = self._process.stdin, self._process.stdout
        for pipe in (self._requests, self._replies):
            os.set_blocking(pipe.fileno(), False)
        self._unsent = b""
        self._received = bytearray()
        self._waiting = threading.Lock()  # held while the pipes are in use; `kill` closes them afterwards

    @property
    def pid(self) -> int:
        """Process id, also of its process group."""
        return self._process.pid

    def ask(
        self, request: Mapping[str, Any], seconds: float, cancel_point: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """Send `request` and return the reply.

        Exceptions of `cancel_point` propagate; the request is then still running, so kill the child or get
        the reply with `reply`.

        Raises:
            ChildEnded: the child exited.
            ChildSilent: no reply within `seconds`.
        """
        self.send(request)
        return self.reply(seconds, cancel_point)

    def send(self, request: Mapping[str, Any]) -> None:
        """Queue a request; `reply` writes it while it waits."""
        self._unsent += json.dumps(request).encode() + b"\n"

    def reply(self, seconds: float, cancel_point: Callable[[], None] | None = None) -> dict[str, Any]:
        """Return the next reply. Raises as `ask`."""
        give_up = time.monotonic() + seconds
        with self._waiting:
            while (line := self._next_line()) is None:
                if cancel_point is not None:
                    cancel_point()
                left = give_up - time.monotonic()
                if not self._transfer(min(POLL_SECONDS, max(left, 0.0))) and left <= 0:
                    raise ChildSilent(f"no answer within {seconds:g} s")
        try:
            value = json.loads(line)
        except ValueError as error:
            raise ChildEnded("the child broke the protocol") from error
        if not isinstance(value, dict):
            raise ChildEnded("the child broke the protocol")
        return value

    def close(self, grace: float) -> None:
        """Close the child's input, wait `grace` seconds, then kill it."""
        self._requests.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self.kill()

    def kill(self) -> None:
        """Kill the child and its children; safe to repeat."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        # A waiting `reply` now reads the end of the pipe and releases the lock.
        if self._waiting.acquire(timeout=CLOSE_SECONDS):
            self._requests.close()
            self._replies.close()
            self._waiting.release()

    def _next_line(self) -> bytes | None:
        end = self._received.find(b"\n")
        if end < 0:
            return None
        line = bytes(self._received[:end])
        del self._received[: end + 1]
        return line

    def _transfer(self, seconds: float) -> bool:
        """Move bytes either way, waiting at most `seconds`; return whether any moved."""
        poller = select.poll()
        try:
            poller.register(self._replies, select.POLLIN)
            if self._unsent:
                poller.register(self._requests, select.POLLOUT)
            ready = {file for file, _ in poller.poll(math.ceil(1000 * seconds))}
            readable = self._replies.fileno() in ready
            writable = bool(self._unsent) and self._requests.fileno() in ready
            if writable:
                self._unsent = self._unsent[os.write(self._requests.fileno(), self._unsent[:_CHUNK]) :]
            if readable:
                data = os.read(self._replies.fileno(), _CHUNK)
                if not data:
                    raise ChildEnded("the child process ended")
                self._received += data
        except (OSError, ValueError) as error:  # a broken pipe, or closed by `kill`
            raise ChildEnded("the child process ended") from error
        return bool(readable or writable)

"""A pool of reader processes that decode pictures within limits of time and memory.

A picture waits for a reader until its deadline or its cancellation. The caller holding the fewest readers is
served first, with its smallest file; one caller holds at most 2 of the 4 readers. A picture whose header
declares more than LIGHT_BYTES of memory is heavy. Heavy pictures share a memory budget and use at most 3
readers, 1 per caller; a heavy picture that must wait returns its reader.

A maintenance thread starts and reaps readers. A killed reader is replaced once it has exited; one that
survives SIGKILL counts as stuck and is not replaced until it exits.
"""

from __future__ import annotations

import itertools
import logging
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from PIL import Image

from ofa.errors import ImageError
from ofa.picture import File
from service.contract.errors import Abandoned, DeadlineExceeded, NoReader, OutOfMemory, ShuttingDown
from service.contract.status import Reading
from service.intake.image import Picture
from service.intake.reader_process import ReaderEnded, ReaderProcess, ReaderSilent, command

READERS: Final = 4
MEGABYTE: Final = 1 << 20
LIGHT_BYTES: Final = 128 << 20  # enough for a rotated photograph of 12 megapixels
LIGHT_SECONDS: Final = 1.5  # of CPU time; typical pictures take hundredths
HEAVY_BYTES: Final = 1 << 30  # for all heavy pictures together
HEAVY_SECONDS: Final = 4.0
STUCK_SECONDS: Final = 10.0  # after SIGKILL
_REAP_SECONDS: Final = 0.02
_RETRY_SECONDS: Final = 1.0  # after a reader failed to start
_STOP_SECONDS: Final = 2.0
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class _Ticket:
    """A waiting or running read. ``declared_bytes`` is the memory its header declares if it is heavy, else
    0."""

    caller: str
    deadline: float
    megabytes: int
    number: int
    wanted: Future[Any]
    declared_bytes: int = 0
    reader: ReaderProcess | None = None


@dataclass(eq=False, slots=True)
class _Ending:
    """A reader that was killed."""

    reader: ReaderProcess
    since: float = field(default_factory=time.monotonic)
    stuck: bool = False


class Readers:
    """The pool. Starts with ``start`` or the first ``read``; ``make`` starts one reader."""

    def __init__(
        self,
        *,
        count: int = READERS,
        make: Callable[[], ReaderProcess] = lambda: ReaderProcess(command()),
        stuck_seconds: float = STUCK_SECONDS,
    ) -> None:
        self._count = count
        self._make = make
        self._of_one = max(1, count // 2)  # readers that one caller may hold
        self._stuck_seconds = stuck_seconds
        self._numbers = itertools.count()
        # Guards everything below. Never held while waiting for a process.
        self._changed = threading.Condition()
        self._idle: list[ReaderProcess] = []
        self._busy: list[ReaderProcess] = []
        self._ending: list[_Ending] = []
        self._waiting: list[_Ticket] = []
        self._held: Counter[str] = Counter()
        self._heavy: list[_Ticket] = []
        self._failing = False  # the last reader failed to start
        self._retry_at = 0.0
        self._stopped = False
        self._keeper: threading.Thread | None = None

    def start(self) -> None:
        """Start the readers in the background. May be called more than once."""
        with self._changed:
            if self._keeper is None and not self._stopped:
                self._keeper = threading.Thread(target=self._maintain, name="readers", daemon=True)
                self._keeper.start()

    def stop(self, wait: float = _STOP_SECONDS) -> None:
        """Kill all readers, fail what waits for one, and join the maintenance thread for at most ``wait``
        seconds."""
        with self._changed:
            self._stopped = True
            keeper = self._keeper
            for reader in (*self._idle, *self._busy):
                reader.kill()
            self._ending += map(_Ending, self._idle)
            self._idle.clear()
            self._changed.notify_all()
        if keeper is not None:
            keeper.join(wait)

    def read(
        self,
        file: File,
        *,
        side: int,
        max_pixels: int,
        deadline: float,
        caller: str = "",
        wanted: Future[Any] | None = None,
    ) -> Picture:
        """Decode the picture in ``file`` to an RGB square of ``side`` pixels.

        ``deadline`` is a ``time.monotonic()`` value; cancelling ``wanted`` stops the reading.

        Raises:
            ImageError: the picture cannot be decoded.
            DeadlineExceeded: the picture was not decoded in time.
            Abandoned: ``wanted`` was cancelled.
            ShuttingDown, OutOfMemory.
        """
        self.start()
        wanted = wanted if wanted is not None else Future()
        ticket = _Ticket(caller, deadline, file.size // MEGABYTE, next(self._numbers), wanted)
        ticket.wanted.add_done_callback(lambda future: self._forget(ticket) if future.cancelled() else None)
        while True:
            with self._place(ticket) as reader:
                reply, pixels = self._ask(reader, ticket, file, side, max_pixels)
            if "declared_bytes" not in reply:
                return _picture(reply, pixels, side)
            ticket.declared_bytes = int(reply["declared_bytes"])  # it is heavy: wait for a reader again

    def state(self) -> Reading:
        with self._changed:
            stuck = sum(one.stuck for one in self._ending)
            idle, busy = len(self._idle), len(self._busy)
            left = idle + busy if self._failing else self._count - stuck
            return Reading(left, idle, busy, stuck, len(self._waiting))

    def pids(self) -> tuple[Sequence[int], Sequence[int]]:
        """Process ids of idle readers, and of all others that have not exited."""
        with self._changed:
            others = (*self._busy, *(one.reader for one in self._ending))
            return [one.pid for one in self._idle], [one.pid for one in others]

    # ---- one picture -------------------------------------------------------------------------------------

    def _ask(
        self, reader: ReaderProcess, ticket: _Ticket, file: File, side: int, max_pixels: int
    ) -> tuple[dict[str, Any], bytes]:
        """Return the reader's answer; one with ``declared_bytes`` means that the picture is heavy and must
        wait."""
        data = file.read()
        job = {
            "bytes": len(data),
            "side": side,
            "max_pixels": max_pixels,
            "memory": ticket.declared_bytes or LIGHT_BYTES,
            "seconds": HEAVY_SECONDS if ticket.declared_bytes else LIGHT_SECONDS,
        }
        reader.send(job, data, ticket.deadline)
        del data  # many requests may wait here
        reply, pixels = reader.reply(ticket.deadline)
        if "declared_bytes" not in reply:
            return reply, pixels
        if self._counts_as_heavy(ticket, int(reply["declared_bytes"])):
            reader.send({"seconds": HEAVY_SECONDS}, b"", ticket.deadline)
            return reader.reply(ticket.deadline)
        reader.send({}, b"", ticket.deadline)
        reader.reply(ticket.deadline)
        return reply, b""

    @contextmanager
    def _place(self, ticket: _Ticket) -> Iterator[ReaderProcess]:
        """Take a reader and return it afterwards; kill it if it is not ready for another picture."""
        reader = self._take(ticket)
        try:
            yield reader
        except ReaderSilent as error:
            raise DeadlineExceeded("The picture was not read in time.") from error
        except ReaderEnded as error:
            raise self._why_ended(reader, ticket) from error
        finally:
            self._give_back(ticket, reader)

    def _take(self, ticket: _Ticket) -> ReaderProcess:
        """Wait for a reader that has started."""
        while True:
            reader = self._wait_for_place(ticket)
            try:
                reader.wait_ready(ticket.deadline)
                self._can_start()
                return reader
            except (ReaderEnded, ReaderSilent) as error:
                reader.usable = False
                self._give_back(ticket, reader)
                if isinstance(error, ReaderEnded) and not ticket.wanted.cancelled():
                    self._not_started(error)

    def _wait_for_place(self, ticket: _Ticket) -> ReaderProcess:
        with self._changed:
            self._waiting.append(ticket)
            try:
                while True:
                    left = ticket.deadline - time.monotonic()
                    if ticket.wanted.cancelled():
                        raise Abandoned
                    if self._stopped:
                        raise ShuttingDown("The service is stopping.")
                    if left <= 0:
                        raise NoReader("Too many pictures are being read at once.")
                    self._drop_dead()
                    if self._next() is ticket:
                        break
                    self._changed.wait(left)
                ticket.reader = reader = self._idle.pop()
                self._busy.append(reader)
                self._held[ticket.caller] += 1
                if ticket.declared_bytes:
                    self._heavy.append(ticket)
                return reader
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()

    def _give_back(self, ticket: _Ticket, reader: ReaderProcess) -> None:
        with self._changed:
            ticket.reader = None
            self._held -= Counter([ticket.caller])
            self._busy.remove(reader)
            if ticket in self._heavy:
                self._heavy.remove(ticket)
            if reader.usable and not self._stopped:
                self._idle.append(reader)
            else:
                reader.kill()
                self._ending.append(_Ending(reader))
            self._changed.notify_all()

    def _next(self) -> _Ticket | None:
        """The ticket that gets the next reader. Called with the lock held."""
        able = [
            one
            for one in self._waiting
            if self._held[one.caller] < self._of_one
            and (not one.declared_bytes or self._has_room(one.caller, one.declared_bytes))
        ]
        if not (self._idle and able):
            return None
        # Before decoding, the file size is the only estimate of the work.
        return min(
            able, key=lambda one: (self._held[one.caller], one.declared_bytes, one.megabytes, one.number)
        )

    def _has_room(self, caller: str, declared_bytes: int) -> bool:
        """Whether another heavy picture of this caller fits. Called with the lock held."""
        used = sum(one.declared_bytes for one in self._heavy)
        of_one = sum(one.caller == caller for one in self._heavy)
        return not used or (
            len(self._heavy) < self._count - 1
            and of_one < max(1, self._of_one - 1)
            and used + declared_bytes <= HEAVY_BYTES
        )

    def _counts_as_heavy(self, ticket: _Ticket, declared_bytes: int) -> bool:
        """Count a picture as heavy if it may continue at once; return whether it may."""
        with self._changed:
            if ticket in self._heavy:
                self._heavy.remove(ticket)
            if room := self._has_room(ticket.caller, declared_bytes):
                ticket.declared_bytes = declared_bytes
                self._heavy.append(ticket)
            return room

    def _forget(self, ticket: _Ticket) -> None:
        """Stop a cancelled read."""
        with self._changed:
            if ticket.reader is not None:
                ticket.reader.kill()
            self._changed.notify_all()

    def _why_ended(self, reader: ReaderProcess, ticket: _Ticket) -> Exception:
        """The error to raise for a reader that exited while decoding."""
        if ticket.wanted.cancelled():
            return Abandoned()
        if self._stopped:
            return ShuttingDown("The service is stopping.")
        status = reader.status(_STOP_SECONDS)
        if status == -signal.SIGPROF:
            return ImageError("The picture takes too long to read.", "too_slow_to_read")
        if status == -signal.SIGKILL:  # by the kernel's OOM killer, which selects readers first
            return OutOfMemory("The machine's memory is full.")
        return ImageError("The picture is damaged.")

    # ---- the maintenance thread --------------------------------------------------------------------------

    def _maintain(self) -> None:
        """Run until stopped and all readers have exited."""
        while True:
            with self._changed:
                if self._stopped and not (self._busy or self._ending):
                    return
                self._changed.wait(self._pause())
                self._drop_dead()
                ending, missing = list(self._ending), self._missing()
            try:
                for one in ending:
                    self._reap(one)
                for _ in range(missing):
                    self._start_one()
            except Exception as error:  # a bug; the thread must survive, since it replaces readers
                self._not_started(error)

    def _pause(self) -> float | None:
        """Seconds until the next step. Called with the lock held."""
        if self._missing():
            return 0.0
        if any(not one.stuck for one in self._ending):
            return _REAP_SECONDS
        if self._ending:
            return _RETRY_SECONDS
        return max(0.0, self._retry_at - time.monotonic()) if self._failing else None

    def _missing(self) -> int:
        """The number of readers to start now. Called with the lock held."""
        if self._stopped or (self._failing and time.monotonic() < self._retry_at):
            return 0
        return self._count - len(self._idle) - len(self._busy) - len(self._ending)

    def _drop_dead(self) -> None:
        """Remove idle readers that have exited. Called with the lock held."""
        for reader in [one for one in self._idle if not one.alive]:
            self._idle.remove(reader)
            self._ending.append(_Ending(reader))
            self._changed.notify_all()

    def _start_one(self) -> None:
        try:
            reader = self._make()
        except OSError as error:
            self._not_started(error)
            return
        with self._changed:
            if self._stopped:
                reader.kill()
                self._ending.append(_Ending(reader))
            else:
                self._idle.insert(0, reader)  # started readers are taken first
            self._changed.notify_all()

    def _can_start(self) -> None:
        with self._changed:
            recovered, self._failing = self._failing, False
        if recovered:
            _log.info("READER_STARTED")

    def _not_started(self, error: Exception) -> None:
        with self._changed:
            logged, self._failing = self._failing, True
            self._retry_at = time.monotonic() + _RETRY_SECONDS
            self._changed.notify_all()
        if not logged:
            _log.error("READER_NOT_STARTED | ERROR=%s", type(error).__name__)

    def _reap(self, one: _Ending) -> None:
        seconds = time.monotonic() - one.since
        if not one.reader.alive:
            one.reader.close()
            with self._changed:
                self._ending.remove(one)
                self._changed.notify_all()
            if one.stuck:
                _log.info("READER_ENDED | PID=%d | AFTER=%.0fs", one.reader.pid, seconds)
        elif seconds >= self._stuck_seconds and not one.stuck:
            with self._changed:
                one.stuck = True
            _log.error("READER_STUCK | PID=%d | AFTER=%.0fs", one.reader.pid, seconds)


def _picture(reply: dict[str, Any], pixels: bytes, side: int) -> Picture:
    """Decode a reader's final answer. Raises ImageError."""
    if "code" in reply:
        raise ImageError(reply["message"], reply["code"], **reply["facts"])
    (width, height), (across, down) = reply["size"], reply["upright"]
    return Picture(Image.frombytes("RGB", (side, side), pixels), (width, height), (across, down))

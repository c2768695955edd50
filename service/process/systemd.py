"""Tells systemd that the service has started, still lives, or ends: the protocol of ``Type=notify``.

Without ``NOTIFY_SOCKET`` in the environment nobody is told and no thread runs. The watchdog is fed only
while the health report says live, so a process whose threads run but whose engine is stuck is ended by
systemd as it would be by the guardian.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Final

from service.health.report import Report

LOOK_SECONDS: Final = 1.0
LOADING_GRACE_SECONDS: Final = 300
"""How much longer systemd is asked to wait, each time loading has moved."""

_log = logging.getLogger(__name__)


class Systemd:
    """Reports to ``environ``'s NOTIFY_SOCKET what ``report`` says, from ``start`` to ``stop``."""

    def __init__(self, report: Callable[[], Report], environ: Mapping[str, str]) -> None:
        self._report = report
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watched = int(environ.get("WATCHDOG_USEC") or 0) > 0
        self._ready = False
        self._loading = ""
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="systemd", daemon=True)

    def start(self) -> None:
        """Begin to report, if anybody listens."""
        if self._address:
            self._thread.start()

    def stop(self) -> None:
        """Say that the service is stopping, and end the thread."""
        self._enough.set()
        if self._address:
            self._tell("STOPPING=1")
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._enough.wait(LOOK_SECONDS):
            self.look()

    def look(self) -> None:
        """One look at the report, and what is to be told of it."""
        report = self._report()
        if not report.startup.ok:
            if report.startup.reason != self._loading:
                self._loading = report.startup.reason
                self._tell(f"STATUS={self._loading}", f"EXTEND_TIMEOUT_USEC={LOADING_GRACE_SECONDS}000000")
            return
        if not self._ready:
            self._ready = True
            self._tell("READY=1", "STATUS=serving")
        if self._watched and report.live.ok:
            self._tell("WATCHDOG=1")

    def _tell(self, *lines: str) -> None:
        # An address that begins with @ names an abstract socket, which the kernel spells with a zero byte.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(1.0)
                channel.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            _log.debug("SYSTEMD | ERROR=%s", type(error).__name__)

"""Notify systemd of start, liveness and stop (``Type=notify``).

Without ``NOTIFY_SOCKET`` in the environment it does nothing. The watchdog is notified only while the health
report is live, so systemd restarts a stuck engine as the guardian would.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Final

from service.health.report import Report

POLL_SECONDS: Final = 1.0
LOADING_GRACE_SECONDS: Final = 300
"""Start timeout extension requested from systemd whenever loading progresses."""

_log = logging.getLogger(__name__)


class Systemd:
    """Sends the state of ``report`` to NOTIFY_SOCKET of ``environ`` from ``start`` to ``stop``."""

    def __init__(self, report: Callable[[], Report], environ: Mapping[str, str]) -> None:
        self._report = report
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._watched = int(environ.get("WATCHDOG_USEC") or 0) > 0
        self._ready = False
        self._loading = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="systemd", daemon=True)

    def start(self) -> None:
        """Start notifying if there is a NOTIFY_SOCKET."""
        if self._address:
            self._thread.start()

    def extend(self, seconds: float) -> None:
        """Ask for ``seconds`` from now until a stop must have ended."""
        if self._address:
            self._notify(f"EXTEND_TIMEOUT_USEC={seconds * 1e6:.0f}")

    def stop(self) -> None:
        """Notify that the service is stopping, and end the thread."""
        self._stopped.set()
        if self._address:
            self._notify("STOPPING=1")
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.wait(POLL_SECONDS):
            self.poll()

    def poll(self) -> None:
        """Check the report once and notify of changes."""
        report = self._report()
        if not report.startup.ok:
            if report.startup.reason != self._loading:
                self._loading = report.startup.reason
                self._notify(f"STATUS={self._loading}", f"EXTEND_TIMEOUT_USEC={LOADING_GRACE_SECONDS}000000")
            return
        if not self._ready:
            self._ready = True
            self._notify("READY=1", "STATUS=serving")
        if self._watched and report.live.ok:
            self._notify("WATCHDOG=1")

    def _notify(self, *lines: str) -> None:
        # A leading @ denotes an abstract socket, which the kernel spells with a zero byte.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(1.0)
                channel.sendto("\n".join(lines).encode(), address)
        except OSError as error:
            _log.debug("SYSTEMD | ERROR=%s", type(error).__name__)

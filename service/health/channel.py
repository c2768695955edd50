"""The guardian's private channel: a Unix socket in the run directory, which public traffic cannot starve.

``GET /guardian`` returns lines ``KEY=value``. The socket has its own server thread, connections and spare
descriptor. On file systems without sockets the guardian polls the public port instead, and a fresh heartbeat
file shows that the process is alive even if that port does not answer.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from flask import Flask, Response

from service.contract.causes import Refusal
from service.contract.status import Phase
from service.contract.times import STOP_CHANNEL
from service.health.report import Report
from service.health.wsgi import ServerThread
from service.listening import Connections, Limits

SOCKET: Final = "health.sock"
HEARTBEAT: Final = "heartbeat"
_LIMITS: Final = Limits(connections=64, first_byte=5.0, keep_alive=5.0, head=5.0, body=5.0, stall=5.0)
_log = logging.getLogger(__name__)


def create_app(report: Callable[[], Report]) -> Flask:
    """Create the Flask application behind the socket."""
    app = Flask("guardian_channel", static_folder=None)

    @app.get("/guardian")
    def guardian() -> Response:
        return Response(lines(report()), mimetype="text/plain")

    return app


def lines(report: Report) -> str:
    """The guardian's input. LEAVING is the announced exit code; EVIDENCE_AGE is in seconds. READY and the
    following ones but REMOTE (the model is in another process) are for its tables."""
    more: Any = report.more
    evidence_age = more["evidence"]["age_seconds"]
    stopping = report.ready.reason == Refusal.STOPPING
    fields = {
        "LIVE": _word(report.live.ok),
        "STARTED": _word(report.startup.ok),
        "HEALTHY": _word(report.healthy),
        "MODEL": report.details["model"],
        "INFERENCE": report.details["inference"],
        "PROGRESS": "" if report.startup.ok else report.startup.reason,
        "LEAVING": "" if report.leaving is None else str(report.leaving),
        "REASON": report.live.reason,
        "READY": _word(report.ready.ok),
        "PHASE": Phase.STOPPING if stopping else report.details["model"],
        "QUEUE": str(more["queue"]["waiting"]),
        "EVIDENCE_AGE": "" if evidence_age is None else f"{evidence_age:.0f}",
        "DEVICE": more["model"]["device"] or "",
        "REMOTE": _word(more["remote"] is not None),
        "END": "yes",
    }
    return "".join(f"{key}={' '.join(value.split())}\n" for key, value in fields.items())


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


class Channel:
    """Serves ``create_app`` on the socket in ``run_dir``."""

    def __init__(self, report: Callable[[], Report], run_dir: Path) -> None:
        self._report = report
        self._path = run_dir / SOCKET
        self._server: ServerThread | None = None

    @property
    def alive(self) -> bool:
        """False only if the server thread has died; True without a socket."""
        return self._server is None or self._server.alive

    def start(self) -> bool:
        """Start serving; False, with a log line, if the socket cannot be created."""
        try:
            listener = bind(self._path)
        except OSError as error:
            _log.warning("CHANNEL | SOCKET=none | ERROR=%s | FALLBACK=heartbeat", error.strerror or error)
            return False
        connections = Connections("guardian", _LIMITS)
        self._server = ServerThread(
            "guardian-channel", create_app(self._report), listener, connections, threads=1
        )
        self._server.start()
        return True

    def stop(self, wait: float = STOP_CHANNEL / 2) -> None:
        """Close the socket and remove its file."""
        server, self._server = self._server, None
        if server is not None:
            server.stop(wait)
            with suppress(OSError):
                self._path.unlink()


def bind(path: Path) -> socket.socket:
    """Return a listening Unix socket at ``path`` with mode 0600, replacing a stale one. Raises OSError.

    Bound through the folder's descriptor, since a socket address is limited to 107 bytes.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(path.name, dir_fd=folder)
        os.fchmod(listener.fileno(), 0o600)  # before bind, so that the file is never accessible to others
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        listener.listen(16)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


class Heartbeat:
    """Writes the milliseconds since boot, comparable to /proc/uptime, to a file in ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / HEARTBEAT

    def beat(self) -> None:
        """Update the file; on a write error it becomes stale."""
        text = f"{int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)}\n"
        part = self._path.with_name(f"{HEARTBEAT}.part")
        with suppress(OSError):
            part.write_text(text, encoding="ascii")
            part.replace(self._path)

    def remove(self) -> None:
        """Remove the file, at start (an earlier process may have left it) and at exit."""
        with suppress(OSError):
            self._path.unlink()

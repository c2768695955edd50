"""The guardian's own way in: a Unix socket in the run directory, which nothing public can starve.

``GET /guardian`` answers lines ``KEY=value``. The socket has its own server thread, connections and spare
descriptor. Where the file system has no sockets, a heartbeat file takes its place: the guardian then asks the
public port, and a fresh heartbeat says that silence there is not the process's.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import time
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

from flask import Flask, Response

from service.contract.times import STOP_CHANNEL
from service.health.report import Report
from service.health.wsgi import ServerThread
from service.listening import Connections, Limits

SOCKET: Final = "health.sock"
HEARTBEAT: Final = "heartbeat"
_LIMITS: Final = Limits(connections=64, first_byte=5.0, keep_alive=5.0, head=5.0, body=5.0, stall=5.0)
_log = logging.getLogger(__name__)


class Reporter(Protocol):
    """What the channel needs of the application."""

    def report(self) -> Report: ...


def create_app(application: Reporter) -> Flask:
    """The Flask application behind the socket."""
    app = Flask("guardian_channel", static_folder=None)

    @app.get("/guardian")
    def guardian() -> Response:
        return Response(lines(application.report()), mimetype="text/plain")

    return app


def lines(report: Report) -> str:
    """What the guardian decides by. LEAVING is the exit code that the process has announced."""
    told = {
        "LIVE": _word(report.live.ok),
        "STARTED": _word(report.startup.ok),
        "HEALTHY": _word(report.healthy),
        "MODEL": report.details["model"],
        "INFERENCE": report.details["inference"],
        "PROGRESS": "" if report.startup.ok else report.startup.reason,
        "LEAVING": "" if report.leaving is None else str(report.leaving),
        "REASON": report.live.reason,
        "END": "yes",
    }
    return "".join(f"{key}={' '.join(value.split())}\n" for key, value in told.items())


def _word(yes: bool) -> str:
    return "yes" if yes else "no"


class Channel:
    """Serves ``create_app`` on the socket in ``run_dir``."""

    def __init__(self, application: Reporter, run_dir: Path) -> None:
        self._application = application
        self._path = run_dir / SOCKET
        self._server: ServerThread | None = None

    @property
    def alive(self) -> bool:
        """False only when its thread has died; without a socket there is none."""
        return self._server is None or self._server.alive

    def start(self) -> bool:
        """Answer from now on; False, with a line in the log, where no socket can be made."""
        try:
            listener = bind(self._path)
        except OSError as error:
            _log.warning("CHANNEL | SOCKET=none | ERROR=%s | FALLBACK=heartbeat", error.strerror or error)
            return False
        connections = Connections("guardian", _LIMITS)
        self._server = ServerThread(
            "guardian-channel", create_app(self._application), listener, connections, threads=1
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
    """A listening Unix socket at ``path``, for its owner alone, in place of one left there. Raises OSError.

    It is bound through the folder's descriptor: an address may have 107 bytes, a folder's path more.
    """
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path.name, dir_fd=folder, follow_symlinks=False).st_mode):
                os.unlink(path.name, dir_fd=folder)
        os.fchmod(
            listener.fileno(), 0o600
        )  # the file takes this mode, so no moment exists in which it is open
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
        listener.listen(16)
    except BaseException:
        listener.close()
        raise
    finally:
        os.close(folder)
    return listener


class Heartbeat:
    """Writes the milliseconds since boot, which bash reads in /proc/uptime, to a file in ``run_dir``."""

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / HEARTBEAT

    def beat(self) -> None:
        """Renew it; a disk that takes nothing leaves it old."""
        text = f"{int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)}\n"
        part = self._path.with_name(f"{HEARTBEAT}.part")
        with suppress(OSError):
            part.write_text(text, encoding="ascii")
            part.replace(self._path)

    def remove(self) -> None:
        """At the start and at the end: an earlier process's is nobody's heartbeat."""
        with suppress(OSError):
            self._path.unlink()

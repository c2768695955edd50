"""The service's command line, and the names that scripts import.

    python web_app.py --model demo --port 7860 --health-port 8000      see --help
    from web_app import init_model, predict, health_check              starts no server, loads no model

Started as a program it goes: settings, ports, logs, application, health sidecar, page. The model loads in
the background meanwhile. SIGTERM and SIGINT end it in order: no new work, accepted requests answered within
--stop-grace, exit code 0. Exit codes are service.contract.causes.ExitCode.
"""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from service.contract.causes import ExitCode
from service.errors import SettingsError
from service.settings import Settings
from service.streams import use_utf8

if TYPE_CHECKING:
    import socket

    from PIL import Image

    from page.server import PageServer
    from service.app import Application

log = logging.getLogger("web_app")

LOOK_SECONDS: Final = 0.2

_lock = threading.Lock()  # guards _application: built once, whichever thread asks first
_application: Application | None = None


def init_model() -> bool:
    """Load the model that the environment names (OFA_MODEL, …), with its retries; True if it is loaded."""
    return _shared().load()


def predict(
    image: Image.Image | str | Path | None, text: str | None, premise: str | None = None
) -> dict[str, object]:
    """Whether ``image`` (PIL, or a path) shows what ``text`` says: {"label", "score", "scores", "reason"}.

    ``reason`` is None when the model decided. Loads the model first if nobody has. Raises InputError for
    input that cannot be judged.
    """
    application = _shared()
    application.load_first()
    return application.submit(image, text, premise).result().as_dict()


def health_check() -> dict[str, str]:
    """The ``details`` of the health report: process, gpu, memory, disk, model, inference."""
    return dict(_shared().report().details)


def _shared() -> Application:
    """The one application of a script that imports this module; settings from the environment alone."""
    global _application
    with _lock:
        if _application is None:
            from service.app import build

            _application = build(Settings.from_args([], os.environ))
            # A probe may be deep in native code when the script ends; tearing the interpreter down under it
            # would end in an abort. Nothing is waited for but the next cancel point.
            atexit.register(_application.stop, 0.0)
        return _application


class Signals:
    """Remembers that the process was asked to end. Handlers only record: no lock, no log, no exception."""

    def __init__(self) -> None:
        self.number: int | None = None

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._record)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.number = number


def main(argv: Sequence[str]) -> int:
    """Run the service until it is told to end or cannot go on; the exit code."""
    use_utf8()
    signals = Signals()
    signals.install()
    try:
        settings = Settings.from_args(argv, os.environ)
        from page.server import listen  # the port first: what is wrong with it is told before anything starts

        sock = listen(settings.host, settings.port)
        from service.logs import RESTARTED, Logs

        logs = Logs(
            settings.run_dir,
            max_bytes=settings.log_max_bytes,
            backups=settings.log_backups,
            level=settings.log_level,
        )
        logs.open(must_write=RESTARTED not in os.environ)
    except SettingsError as error:
        print(f"web_app.py: {error.message} {error.remedy}".rstrip(), file=sys.stderr)
        return error.exit_code
    from service.postmortem import StallDump

    stall_dump = StallDump(settings.run_dir)
    stall_dump.start()
    try:
        code = _serve(settings, sock, signals)
    finally:
        stall_dump.stop()
        sock.close()
        logs.close()
    return code


def _serve(settings: Settings, sock: socket.socket, signals: Signals) -> int:
    """The exit code."""
    from health_api import Sidecar
    from page.server import PageServer
    from service.app import build
    from service.leaving import leave
    from service.systemd import Systemd

    application = build(settings, leave=leave)
    sidecar = Sidecar(application, settings.health_host, settings.health_port)
    systemd = Systemd(application.report, os.environ)  # silent unless systemd started us
    page = PageServer(application, settings, sock)
    code, reason = 0, None
    try:
        sidecar.start()
        systemd.start()
        application.start()
        log.info("Health: http://%s:%d/health", settings.health_host, sidecar.port)
        page.start()
        log.info("Page: http://%s:%d", settings.host, page.port)
        code, reason = _wait(application, page, signals)
    except SettingsError as error:
        log.critical("%s %s", error.message, error.remedy)
        code, reason = error.exit_code, error.message
    except Exception as error:
        log.critical("The page could not be started: %s", type(error).__name__, exc_info=True)
        code, reason = ExitCode.LOAD_FAILED, "the page could not be started"
    # In order and within bounds: new work is refused and accepted work answered while the page can still
    # carry the answers out; health can be asked to the last.
    systemd.stop()
    application.stop(settings.stop_grace, code=code, reason=reason)
    page.stop()
    sidecar.stop()
    log.info("Ended.")
    return code


def _wait(application: Application, page: PageServer, signals: Signals) -> tuple[int, str | None]:
    """Return when there is a reason to end: the exit code, and the reason unless the application knows it."""
    while signals.number is None:
        if application.wait(LOOK_SECONDS):
            return application.fatal or 0, None
        if not page.alive:
            log.critical("The page's server ended by itself.")
            return ExitCode.LOAD_FAILED, "the page's server ended by itself"
    log.info("Asked to end by %s.", signal.Signals(signals.number).name)
    return ExitCode.ORDERLY, None


if __name__ == "__main__":
    from service.leaving import leave

    leave(main(sys.argv[1:]))

"""The one main function of both entries: opens ports and logs, starts health, application and page, waits,
stops.

The model loads in the background. SIGTERM and SIGINT stop the process in order: readiness ends, requests are
served for --drain-delay more; then new ones are refused, accepted ones answered within --stop-grace, exit
code 0.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import math
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final, Protocol

from service.contract.causes import ExitCode
from service.contract.errors import SettingsError
from service.contract.times import STOP_TIMEOUT
from service.listening import Connections, health_limits, listen, page_limits, raise_descriptor_limit
from service.settings import Settings, removed
from service.streams import use_utf8
from service.telemetry.logs import Logs, unwritable

if TYPE_CHECKING:
    from service.application import Application
    from service.lifecycle import Supervisor

CHECK_SECONDS: Final = 0.2
LOCK_FILE: Final = "web_app.lock"
#: Set by the guardian on a restart. A run directory that was writable once is no configuration error, and a
#: service without logs is better than none.
RESTARTED: Final = "OFA_RESTARTED"
log = logging.getLogger(__name__)


class Worker(Protocol):
    """A thread behind that server."""

    @property
    def name(self) -> str: ...

    @property
    def alive(self) -> bool: ...


class Front(Protocol):
    """A server beside the health API: the page and the API for programs."""

    @property
    def port(self) -> int: ...

    @property
    def alive(self) -> bool: ...

    @property
    def workers(self) -> Sequence[Worker]: ...

    def start(self) -> None: ...

    def stop_workers(self) -> None: ...

    def stop(self) -> None: ...


MakeFront = Callable[["Application", Settings, socket.socket, Connections], Front]


class Signals:
    """Records a signal to stop. The handlers do nothing else: no lock, no log, no exception."""

    def __init__(self) -> None:
        self.number: int | None = None

    def install(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._record)

    def _record(self, number: int, frame: FrameType | None) -> None:
        self.number = number


def main(argv: Sequence[str], *, prog: str, description: str, front: MakeFront | None = None) -> int:
    """Run the service until a signal stops it or it cannot continue. Returns the exit code."""
    use_utf8()
    signals = Signals()
    signals.install()
    first = RESTARTED not in os.environ
    with ExitStack() as stack:
        gc.disable()  # imports make little garbage: collections took a tenth of their time
        stack.callback(gc.enable)
        try:
            settings = Settings.from_args(argv, os.environ, prog=prog, description=description)
            raise_descriptor_limit()
            # The ports first, so that a port in use is reported before anything slow begins.
            public = health = stack.enter_context(
                listen(settings.health_host, settings.health_port, "--health-port")
            )
            if front is not None:
                public = stack.enter_context(listen(settings.host, settings.port, "--port"))
            if (lock := lock_run_dir(settings.run_dir, first)) is not None:
                stack.callback(os.close, lock)
            logs = Logs.of(settings)
            logs.open(must_write=first)
        except SettingsError as error:
            print(f"{prog}: {error.message} {error.remedy} ({error.code})", file=sys.stderr)
            return error.exit_code
        stack.callback(logs.close)
        for name in removed(os.environ):
            log.warning("SETTING_REMOVED | NAME=%s", name)
        from service.process.postmortem import StallDump

        stall_dump = StallDump(settings.run_dir)
        stall_dump.start()
        stack.callback(stall_dump.stop)
        return _serve(settings, health, public, signals, front)


def lock_run_dir(run_dir: Path, must_write: bool) -> int | None:
    """Lock the run directory until this process ends: two instances would share logs, socket and exit file.

    Returns the lock's descriptor, None if the file cannot be created. Raises SettingsError if another
    instance holds it, and with ``must_write`` if the directory is not writable.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock = os.open(run_dir / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if must_write and (refusal := unwritable(run_dir, error)) is not None:
            raise refusal from error
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise SettingsError(
            f"Another instance uses the run directory {run_dir}.",
            remedy="Give this one its own with --run-dir (OFA_RUN_DIR), and other ports.",
            code="run_dir_taken",
        ) from error
    except OSError as error:  # a file system without locks
        log.warning("RUN_DIR | LOCK=none | ERROR=%s", error.strerror)
    return lock


def _serve(
    settings: Settings,
    health: socket.socket,
    public: socket.socket,
    signals: Signals,
    make_front: MakeFront | None,
) -> int:
    """Run until there is a reason to stop. Returns the exit code."""
    from service.build import build
    from service.callers import Callers
    from service.health.api import Sidecar
    from service.health.channel import Channel, Heartbeat
    from service.process.exit_file import exit_now
    from service.process.systemd import Systemd

    callers = Callers(settings.trusted_proxies)
    for_health = Connections("health", health_limits(), callers)
    for_page = Connections("page", page_limits(), callers)
    application = build(settings, exit_now=exit_now, connections=(for_health, for_page))
    supervisor = application.supervisor
    channel = Channel(application.report, settings.run_dir)
    heartbeat = Heartbeat(settings.run_dir)
    sidecar = Sidecar(application, health, for_health)
    systemd = Systemd(application.report, os.environ)  # silent unless systemd started us
    front = make_front(application, settings, public, for_page) if make_front is not None else None
    watched: dict[str, _Alive] = {"guardian-channel": channel, "health": sidecar}
    if front is not None:
        watched |= {"front": front, **{worker.name: worker for worker in front.workers}}
    code, reason = 0, None
    try:
        heartbeat.remove()
        if not channel.start():
            supervisor.keep_heartbeat(heartbeat.beat)
        sidecar.start()
        systemd.start()
        supervisor.start_threads(pictures=front is not None)
        log.info("LISTENING | SERVER=health | URL=http://%s:%d/health", settings.health_host, sidecar.port)
        if front is not None:
            _log_page(settings)
            front.start()
            log.info("LISTENING | SERVER=page | URL=http://%s:%d", settings.host, front.port)
        # The page first: two threads that import at once contend for the GIL, and both take longer.
        supervisor.start_loading()
        gc.freeze()  # later collections skip what the imports made
        gc.enable()
        code, reason = _wait(supervisor, watched, signals)
        if signals.number is not None and settings.drain_delay and application.report().healthy:
            systemd.extend(settings.drain_delay + STOP_TIMEOUT)
            code, reason = _drain(supervisor, watched, signals, settings.drain_delay)
    except SettingsError as error:
        log.critical("START_FAILED | CODE=%s | MSG=%s | REMEDY=%s", error.code, error.message, error.remedy)
        code, reason = error.exit_code, error.message
    except Exception as error:
        log.critical("START_FAILED | ERROR=%s", type(error).__name__, exc_info=True)
        code, reason = ExitCode.LOAD_FAILED, "the service could not be started"
    # The page stops after the application, as it carries the last answers out; health answers to the end.
    systemd.stop()
    if front is not None:
        front.stop_workers()
    supervisor.stop(settings.stop_grace, code=code, reason=reason)
    if front is not None:
        front.stop()
    sidecar.stop()
    channel.stop()
    heartbeat.remove()
    log.info("ENDED | CODE=%d", code)
    return code


def _log_page(settings: Settings) -> None:
    """Log what API keys without a page password mean for the page."""
    if settings.api_keys_file is None or settings.page_password_file is not None:
        return
    if settings.page == "open":
        log.warning("PAGE_OPEN | MSG=the page judges without a key")
    elif settings.page == "on":
        log.info("PAGE_OFF | MSG=with API keys, a page needs --page-password-file or --page open")


class _Alive(Protocol):
    @property
    def alive(self) -> bool: ...


def _drain(
    supervisor: Supervisor, watched: dict[str, _Alive], signals: Signals, seconds: float
) -> tuple[int, str | None]:
    """Serve for ``seconds`` more without being ready; a second signal ends that. Returns as ``_wait``."""
    supervisor.drain()
    signals.number = None
    return _wait(supervisor, watched, signals, time.monotonic() + seconds)


def _wait(
    supervisor: Supervisor, watched: dict[str, _Alive], signals: Signals, until: float = math.inf
) -> tuple[int, str | None]:
    """Wait for a reason to stop, or until a monotonic time. Returns the exit code, and the reason unless the
    supervisor knows it."""
    while signals.number is None:
        if time.monotonic() >= until:
            return ExitCode.ORDERLY, None
        if supervisor.wait(CHECK_SECONDS):
            return supervisor.fatal or 0, None
        dead = [name for name, part in watched.items() if not part.alive]
        if ended := [*dead, *supervisor.dead_threads()]:
            log.critical("THREAD_ENDED | NAME=%s", ended[0])
            return ExitCode.LOAD_FAILED, f"the thread {ended[0]} ended"
    log.info("STOP_REQUESTED | SIGNAL=%s", signal.Signals(signals.number).name)
    return ExitCode.ORDERLY, None

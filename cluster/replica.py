"""One replica: the service without page and public port, whose API is called in the process.

Ray starts a replacement for a replica whose health check fails, and asks the replica itself how busy it is.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import ray

from cluster import inprocess
from cluster.arguments import settings_of
from cluster.inprocess import Call
from cluster.run_dir import open_run_dir
from service.contract.status import Phase
from service.contract.times import START_STALL

if TYPE_CHECKING:
    from service.application import Application
    from service.health.report import Report
    from service.settings import Settings

CHECK_SECONDS: Final = 0.05
log = logging.getLogger(__name__)


class Judge:
    """Serves one model. ``flags`` are the service's own."""

    def __init__(self, flags: list[str]) -> None:
        """Return once an inference has proven the model. Raises RuntimeError if that fails."""
        with ExitStack() as stack:
            self.settings, self._number = open_run_dir(settings_of(flags), "replica", stack)
            self.application = self.build(self.settings)
            stack.callback(self._stop_application)
            self._health_port = self._start_health(stack)
            self._app = self._start_api(stack)
            self._progress = Progress(time.monotonic())
            self.application.supervisor.start()
            self._wait_until_proven()
            self._cleanup = stack.pop_all()
        log.info("READY | HEALTH_PORT=%d", self._health_port)

    def build(self, settings: Settings) -> Application:
        """Make the application. Tests make one with faults."""
        from service.build import build
        from service.process.exit_file import exit_now

        return build(settings, exit_now=exit_now)

    # ---- requests ----------------------------------------------------------------------------------------

    async def answer(self, *call: Any, spent: float) -> AsyncIterator[tuple[Any, ...] | None]:
        """Answer a call, the fields of ``Call``: first None as the receipt, then status, headers and body.

        ``spent`` seconds of its time limit are used up. Cancelling this cancels the computation."""
        yield None
        yield tuple(await inprocess.answer(self._app, Call(*call), spent))

    # ---- health ------------------------------------------------------------------------------------------

    def check_health(self) -> None:
        """Raises RuntimeError if only a new process helps, not while it is merely busy or reloading."""
        report = self.application.report()
        if not report.live.ok:
            raise RuntimeError(f"not live: {report.live.reason}")
        # A replacement would have to load the model, too.
        limit = START_STALL if report.details["model"] == Phase.LOADING else self.settings.evidence_ttl
        if self._progress.stalled(report, time.monotonic()) > limit:
            raise RuntimeError(f"no inference has succeeded for long: {report.details['inference']}")

    def record_routing_stats(self) -> dict[str, Any]:
        """Report to the routers and ingresses, through Ray's controller; see ``cluster.readiness``."""
        report = self.application.report()
        return {
            "ready": report.ready.ok,
            "healthy": report.healthy,
            "live": report.live.ok,
            "why": report.ready.reason,
            "name": self.settings.run_dir.name,
            "node": ray.util.get_node_ip_address(),
            "pid": os.getpid(),
            "health": self._health_address(),
            "beat": int(time.monotonic()),  # so that each report differs from the one before
        }

    def __del__(self) -> None:
        """Stop in order; Ray calls this when the last request has been answered."""
        if (cleanup := getattr(self, "_cleanup", None)) is not None:
            cleanup.close()

    # ---- start -------------------------------------------------------------------------------------------

    def _stop_application(self) -> None:
        self.application.supervisor.stop(self.settings.stop_grace)

    def _start_health(self, stack: ExitStack) -> int:
        from service.health.api import Sidecar
        from service.listening import listen

        port = self.settings.health_port and self.settings.health_port + self._number
        listener = listen(self.settings.health_host, port, "--health-port")
        sidecar = Sidecar(self.application, listener)
        sidecar.start()
        stack.callback(sidecar.stop)
        return sidecar.port

    def _start_api(self, stack: ExitStack) -> Any:
        from api.app import ApiSite
        from service.callers import Callers
        from service.http.identity import Identity

        identity = Identity(self.application.api_keys, callers=Callers(self.settings.trusted_proxies))
        site = ApiSite(self.application, self.settings, identity)
        stack.callback(site.close)
        return site.start(0)

    def _wait_until_proven(self) -> None:
        supervisor = self.application.supervisor
        while not (report := self.application.report()).healthy:
            if supervisor.wait(CHECK_SECONDS):
                raise RuntimeError(f"The model could not be loaded: exit code {supervisor.fatal}.")
            if self._progress.stalled(report, time.monotonic()) > START_STALL:
                raise RuntimeError(f"Loading makes no progress: {report.startup.reason}.")

    def _health_address(self) -> str:
        host = self.settings.health_host
        if host in ("0.0.0.0", "::"):
            host = ray.util.get_node_ip_address()
        return f"[{host}]:{self._health_port}" if ":" in host else f"{host}:{self._health_port}"


class Progress:
    """Since when an application is unproven without visible progress of loading."""

    def __init__(self, now: float) -> None:
        self._since = now
        self._word = ""

    def stalled(self, report: Report, now: float) -> float:
        """Return seconds, 0 for a healthy ``report``. Times are monotonic seconds."""
        word = str(report.more.get("model"))
        if report.healthy or word != self._word:
            self._since, self._word = now, word
        return now - self._since

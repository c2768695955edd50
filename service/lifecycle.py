"""The life of the service: load, reload, give up, stop. One ``Supervisor`` reacts to what the parts report.

The model is loaded by a thread of its own, with retries; until then requests are refused as ``loading``. A
failing probe causes one reload from verified files. What only a new process cures ends the service with an
exit code. Stopping is ordered and bounded: refuse, drain, cancel, end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from service.contract.causes import ExitCode
from service.contract.errors import Hung, ServiceError, ShuttingDown, Unstable, UnusableWeights
from service.contract.log_line import fields
from service.contract.protocols import Loads, Model, RequestEngine
from service.contract.request import Request
from service.contract.status import MOVES, Phase, Status
from service.contract.times import STOP_THREADS
from service.health.prober import Prober
from service.health.resources import Sampler
from service.inference.converting import Converter
from service.inference.late_loading import LateLoader
from service.inference.loader import error_fields
from service.inference.memory_fallback import Fallback
from service.intake.readers import Readers
from service.process import postmortem
from service.process.exit_file import write_exit
from service.settings import Settings
from service.telemetry.history import History
from service.telemetry.request_log import RequestLog
from service.telemetry.versions import versions

if TYPE_CHECKING:
    from service.telemetry.traces import Traces

#: After these exit codes the only possible change of phase is to STOPPING.
RESTARTING: Final = (ExitCode.HUNG, ExitCode.DEVICE_LOST, ExitCode.MEMORY_LIMIT)
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What the supervisor starts, stops and steers."""

    model: Model
    engine: RequestEngine
    fallback: Fallback
    loader: Loads
    late_loader: LateLoader
    converter: Converter
    prober: Prober
    sampler: Sampler
    history: History
    readers: Readers
    request_log: RequestLog
    traces: Sequence[Traces] = ()


class Supervisor:
    """Made before the parts, so that they can report to it; ``attach`` completes it before anything
    starts."""

    _parts: Parts

    def __init__(
        self, settings: Settings, status: Status, exit_now: Callable[[int], object] | None = None
    ) -> None:
        """``exit_now`` ends the process with an exit code at once; with None the calling program must end
        a hung process."""
        self._settings = settings
        self._status = status
        self._exit_now = exit_now
        self._reload_tried = False  # since the last correct probe
        self._ever_finite = False  # the model has returned finite scores in this process
        self._ended = threading.Event()
        self._lock = threading.Lock()  # guards _started, _reloading and every change of phase
        self._loading = threading.Lock()  # held while a model is loaded
        self._started = False
        self._reloading = False
        self._loader_thread = threading.Thread(target=self.load, name="loader", daemon=True)

    def attach(self, parts: Parts) -> None:
        self._parts = parts

    # ---- start and load ----------------------------------------------------------------------------------

    def start_threads(self, *, pictures: bool = True) -> None:
        """Start all threads but the loader. Without ``pictures`` the reader processes are started by the
        first picture file; with --engine there are none."""
        if pictures and self._settings.engine is None:
            self._parts.readers.start()
        self._start_threads()

    def start(self, *, pictures: bool = True) -> None:
        """Start all threads and begin to load the model."""
        self.start_threads(pictures=pictures)
        self.start_loading()

    def start_loading(self) -> None:
        """Begin to load the model, in a thread."""
        self._loader_thread.start()

    def load(self) -> bool:
        """Load the model with its retries, or wait while another thread does. True once it is loaded."""
        if self._loaded():
            return True
        self._start_threads()
        with self._loading:
            if self._loaded():
                return True
            began = time.monotonic()
            return self._move(Phase.LOADING, fatal=None) and self._load(began)

    def load_first(self) -> None:
        """Load the model unless it was loaded before; do not wait for a reload."""
        if self._status.phase is not Phase.LOADING or self._status.snapshot().ready_seconds is None:
            self.load()

    def reload(self) -> None:
        """Verify the files in full and load the model again, in a thread, unless one does so already."""
        with self._lock:
            if self._reloading:
                return
            self._reloading = True
            self._loader_thread = thread = threading.Thread(target=self._reload, name="loader", daemon=True)
        thread.start()

    def keep_heartbeat(self, beat: Callable[[], None]) -> None:
        """Call ``beat`` every second from the engine's timer thread."""
        self._parts.engine.keep_heartbeat(beat)

    def probe_now(self) -> bool:
        """Probe the model at once. False while no model is loaded."""
        return self._parts.prober.ask_now()

    def _start_threads(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
            parts = self._parts
            for traces in parts.traces:
                traces.start()
            for part in (parts.engine, parts.sampler, parts.prober, parts.history, parts.fallback):
                part.start()

    def _loaded(self) -> bool:
        return self._status.phase is Phase.LOADED

    def _load(self, began: float, verify: str | None = None) -> bool:
        try:
            replaced = self._parts.loader.run(verify)
        except ShuttingDown:
            return False
        except ServiceError as error:
            self._give_up("MODEL_NOT_LOADED", error)
            return False
        if not self._move(Phase.LOADED, ready_seconds=time.monotonic() - began, last_error=None):
            return False
        self._parts.fallback.loaded()
        self._parts.converter.arm()
        self._parts.prober.enable(new_weights=replaced)
        return True

    def _reload(self) -> None:
        """Accepted requests wait for the new weights, or for their deadline."""
        engine = self._parts.engine
        try:
            with self._loading:
                began, reloads = time.monotonic(), self._status.snapshot().reloads + 1
                if not self._move(Phase.LOADING, reloads=reloads):
                    return
                engine.pause()
                self._parts.prober.disable(forget=True)
                self._parts.fallback.reset()
                self._load(began, verify="full")
        finally:
            engine.resume()
            with self._lock:
                self._reloading = False

    # ---- reports of the parts ----------------------------------------------------------------------------

    def inference_succeeded(self, now: float) -> None:
        """A user got a finite answer at ``now`` (monotonic)."""
        if not self._loaded():
            return  # of weights that are being replaced
        self._ever_finite = True
        self._parts.prober.inference_succeeded(now)
        self._parts.converter.begin()

    def probe_passed(self) -> None:
        self._reload_tried, self._ever_finite = False, True
        self._parts.converter.begin()

    def probe_failing(self) -> None:
        """Several probes in a row were wrong: reload from verified files once, then give up."""
        self._parts.prober.disable()
        if not self._reload_tried:
            self._reload_tried = True
            _log.error("RELOADING | REASON=probe_failing | VERIFY=full")
            self.reload()
        elif self._ever_finite:
            self._give_up("UNSTABLE", Unstable("The model still fails its probe after a reload."))
        else:
            self._give_up(
                "UNSTABLE", UnusableWeights("The model's scores are not finite, also after a reload.")
            )

    def restart_needed(self, error: ServiceError) -> None:
        """Only a new process cures ``error``: the device is lost, or the memory limit was reached."""
        self._parts.prober.disable()
        self._give_up("RESTART_NEEDED", error)

    def hung(self, requests: Sequence[Request], seconds: float) -> None:
        """A computation does not stop: write the post-mortem and end the process.

        Called by the engine's timer. Nothing here waits for another thread, as the engine's never returns.
        """
        if self._status.phase is Phase.STOPPING:
            return  # a stop is bounded and has its own exit code
        error = Hung(f"A computation did not stop for {seconds:.0f} s.")
        self._parts.prober.disable()
        try:
            outcome = fields(postmortem=self._write_postmortem(requests, error))
        except Exception as failure:  # whatever failed: the process ends
            outcome = fields(postmortem_error=type(failure).__name__)
        try:
            _log.critical("RESTART_NEEDED%s | EXIT=%d%s", error_fields(error), error.exit_code, outcome)
        finally:
            if self._exit_now is not None:
                write_exit(self._settings.run_dir, int(error.exit_code), error.message)
                self._exit_now(int(error.exit_code))
            self._fail(error)

    def _write_postmortem(self, requests: Sequence[Request], error: Hung) -> str | None:
        """The name of the file; None if it could not be written."""
        sections = postmortem.sections(
            requests,
            self._status.snapshot(),
            self._parts.sampler.latest(),
            self._parts.request_log.recent,
            versions(),
        )
        path = postmortem.write(self._settings.run_dir, error.message, sections)
        return path.name if path is not None else None

    def _give_up(self, event: str, error: ServiceError) -> None:
        _log.critical("%s%s | EXIT=%d | REMEDY=%s", event, error_fields(error), error.exit_code, error.remedy)
        self._fail(error)

    def _fail(self, error: ServiceError) -> None:
        """The process should end with the error's exit code."""
        self._move(Phase.FAILED, fatal=int(error.exit_code), last_error=error.message)
        self._ended.set()

    def _move(self, phase: Phase, **changes: Any) -> bool:
        """Change the phase. False, with nothing changed, if the state machine has no such move now, e.g.
        because the service has ended meanwhile."""
        with self._lock:
            ending = self._status.fatal in RESTARTING and phase is not Phase.STOPPING
            if ending or phase not in MOVES[self._status.phase]:
                return False
            self._status.move(phase, **changes)
            return True

    # ---- end ---------------------------------------------------------------------------------------------

    @property
    def fatal(self) -> int | None:
        """The exit code when the service cannot continue; None while it can."""
        return self._status.fatal

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the service has ended or cannot continue. False after ``timeout`` seconds."""
        return self._ended.wait(timeout)

    def dead_threads(self) -> list[str]:
        """Return the names of threads that have ended though health depends on them."""
        if self._status.phase is Phase.STOPPING:
            return []
        dead = [part.name for part in (self._parts.prober, self._parts.sampler) if part.dead]
        return dead if self._parts.engine.activity().alive else ["engine", *dead]

    def drain(self) -> None:
        """Report not ready from now on, and keep serving."""
        _log.info("DRAINING | SECONDS=%g", self._settings.drain_delay)
        self._status.update(draining=True)

    def stop(self, grace: float, *, code: int | None = None, reason: str | None = None) -> bool:
        """Refuse new requests, answer accepted ones for ``grace`` seconds, cancel the rest, end the threads.

        Writes ``last_exit.json`` with the code and reason of the process's end, by default those of the
        failure that ended the service, or 0. False when a thread is still deep in a library: then only
        ``exit_now`` ends the process cleanly.
        """
        before, parts = self._status.snapshot(), self._parts
        if not self._move(Phase.STOPPING):
            return not self._loader_thread.is_alive()
        if code is None:
            code = before.fatal if before.fatal is not None else ExitCode.ORDERLY
        if reason is None:
            reason = (before.last_error or "failed") if code else "asked to end"
        waiting = before.activity.depth + before.activity.computing
        _log.info("STOPPING | CODE=%d | REASON=%s | UNANSWERED=%d | GRACE=%gs", code, reason, waiting, grace)
        parts.loader.stopping.set()
        parts.prober.disable()
        parts.readers.stop(0.0)  # what is still being decoded would be refused now
        try:
            ended = parts.engine.stop(grace)
            ended &= self._stop_threads()
            if ended:
                self._close_model()
        finally:
            write_exit(self._settings.run_dir, int(code), reason)
            self._ended.set()
        return ended

    def _close_model(self) -> None:
        """With a lost CUDA context, releasing its memory raises as well."""
        try:
            self._parts.model.close()
        except Exception as error:
            _log.warning("MODEL_NOT_CLOSED | ERROR=%s", type(error).__name__)

    def _stop_threads(self) -> bool:
        """Tell every thread but the engine's to end, then wait for all. False if one that uses the model has
        not ended within STOP_THREADS."""
        parts = self._parts
        stops: list[Callable[[float], bool | None]] = [
            *(parts.prober.stop, parts.sampler.stop, parts.history.stop, parts.converter.stop),
            *(parts.fallback.stop, parts.readers.stop, parts.late_loader.stop, self._join_loader),
            *(one.stop for one in parts.traces),
        ]
        for stop in stops:
            stop(0.0)
        end = time.monotonic() + STOP_THREADS
        return False not in [stop(max(0.0, end - time.monotonic())) for stop in stops]

    def _join_loader(self, wait: float) -> bool:
        if self._loader_thread.ident is not None:
            self._loader_thread.join(wait)
        return not self._loader_thread.is_alive()

"""The application: one object over the parts, behind page, health API and scripts.

A request is checked and decoded in its caller's thread, then waits in the engine's queue. The model is loaded
by a thread of its own, with attempts and pauses; until then requests are answered ``loading``. Stopping goes
in order and within bounds: refuse, drain, cancel, end.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from PIL import Image

from service.contract.causes import ExitCode
from service.contract.errors import (
    Abandoned,
    Hung,
    InputError,
    NotReady,
    OutOfMemory,
    ServiceError,
    ShuttingDown,
    Unstable,
    UnusableWeights,
)
from service.contract.protocols import Model
from service.contract.request import Request, Source, VerdictFuture, new_id
from service.contract.status import MOVES, Phase, Snapshot, Status
from service.contract.times import STOP_THREADS
from service.health import report as health
from service.health.prober import Prober
from service.health.report import Report, resources
from service.inference.converting import Settler
from service.inference.engine import Engine
from service.inference.jobs import no_verdict
from service.inference.loader import Loader, told
from service.inference.memory_fallback import MemoryFallback
from service.intake.prepare import Intake, raw_pair, with_image_size
from service.intake.readers import Readers
from service.operations import Operations
from service.process import postmortem
from service.process.exit_file import write_exit
from service.settings import Settings
from service.telemetry import logs
from service.telemetry.logs import RequestLog
from service.telemetry.metrics import Metrics
from service.telemetry.versions import versions

_RESTARTING: Final = (ExitCode.HUNG, ExitCode.DEVICE_LOST, ExitCode.MEMORY_LIMIT)
_log = logging.getLogger(__name__)


class Application:
    """The one object behind page, health API and scripts. Made by ``build``; ``start`` returns at once."""

    def __init__(
        self,
        settings: Settings,
        *,
        model: Model,
        status: Status,
        engine: Engine,
        prober: Prober,
        sampler: resources.Sampler,
        loader: Loader,
        journal: RequestLog,
        metrics: Metrics,
        operations: Operations,
        memory_fallback: MemoryFallback | None,
        settler: Settler,
        readers: Readers,
        leave: Callable[[int], object] | None,
    ) -> None:
        self._settings = settings
        self._model = model
        self.operations = operations
        self._status = status
        self._engine = engine
        self._prober = prober
        self._sampler = sampler
        self._loader = loader
        self._journal = journal
        self._metrics = metrics
        self._memory_fallback = memory_fallback
        self._settler = settler
        self._leave = leave
        self._doubted = False  # a reload has been tried, and no probe has agreed since
        self._sound = False  # the model has given finite scores in this process: its weights can
        self._readers = readers
        self._intake = Intake(settings, model, journal, readers)
        self._ended = threading.Event()
        self._lock = threading.Lock()  # guards _started and the moves of the phase
        self._loading = threading.Lock()  # held while a model is being loaded
        self._started = False
        self._loader_thread = threading.Thread(target=self.load, name="loader", daemon=True)

    # ---- life --------------------------------------------------------------------------------------------

    def start(self, *, pictures: bool = True) -> None:
        """Start the threads and begin to load the model. ``pictures`` says whether picture files will come:
        else the processes that read them are started by the first."""
        if pictures:
            self._readers.start()
        self._start_threads()
        self._loader_thread.start()

    def load(self) -> bool:
        """Load the model with its retries, or wait while another thread does; True once it is loaded."""
        if self._is_loaded():
            return True
        self._start_threads()
        with self._loading:
            if self._is_loaded():
                return True
            began = time.monotonic()
            if not self._move(Phase.LOADING, fatal=None):
                return False
            return self._load(began)

    def load_first(self) -> None:
        """Load the model if nobody has; a reload that is under way is not waited for."""
        reloading = self._status.phase is Phase.LOADING and self._status.snapshot().ready_seconds is not None
        if not reloading:
            self.load()

    def keep_heartbeat(self, beat: Callable[[], None]) -> None:
        """Have the engine's timer thread call ``beat`` every second, from now on."""
        self._engine.keep_heartbeat(beat)

    def dead_threads(self) -> list[str]:
        """The names of the threads that have ended though health depends on them, while the service runs."""
        if self._status.phase is Phase.STOPPING:
            return []
        return [part.name for part in (self._prober, self._sampler) if part.dead]

    def stop(self, grace: float, *, code: int | None = None, reason: str | None = None) -> bool:
        """Refuse new work, let accepted work finish for ``grace`` seconds, cancel the rest, end the threads.

        Leaves ``last_exit.json`` in the run-time folder, with the code and reason the process will leave
        with; unless given they are those of the failure that ended the service, or 0. False when a thread
        is still deep in a library: then only ``leave`` ends the process cleanly.
        """
        before = self._status.snapshot()
        if not self._move(Phase.STOPPING):
            return not self._loader_thread.is_alive()
        if code is None:
            code = before.fatal if before.fatal is not None else ExitCode.ORDERLY
        if reason is None:
            reason = (before.last_error or "failed") if code else "asked to end"
        waiting = before.activity.depth + before.activity.computing
        _log.info("STOPPING | CODE=%d | REASON=%s | UNANSWERED=%d | GRACE=%gs", code, reason, waiting, grace)
        self._loader.stopping.set()
        self._prober.disable()
        self._readers.stop(0.0)  # what is still being read would be refused now
        ended = self._engine.stop(grace)
        ended &= self._stop_threads()
        if ended:
            self._model.close()
        write_exit(self._settings.run_dir, int(code), reason)
        self._ended.set()
        return ended

    def _stop_threads(self) -> bool:
        """Tell all threads but the engine's to end, then wait for them; False if one that uses the model has
        not ended within STOP_THREADS."""
        stops: list[Callable[[float], bool | None]] = [
            *(self._prober.stop, self._sampler.stop, self.operations.stop, self._settler.stop),
            *([] if self._memory_fallback is None else [self._memory_fallback.stop]),
            *(self._readers.stop, self._join_loader),
        ]
        for stop in stops:
            stop(0.0)
        end = time.monotonic() + STOP_THREADS
        ended = [stop(max(0.0, end - time.monotonic())) for stop in stops]
        return False not in ended

    def _join_loader(self, wait: float) -> bool:
        if self._loader_thread.ident is not None:
            self._loader_thread.join(wait)
        return not self._loader_thread.is_alive()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the service ended or cannot go on; False if it still runs after ``timeout`` seconds."""
        return self._ended.wait(timeout)

    @property
    def fatal(self) -> int | None:
        """The exit code to leave with, when the service cannot go on; None while it can."""
        return self._status.snapshot().fatal

    # ---- requests ----------------------------------------------------------------------------------------

    def submit(
        self,
        image: Image.Image | str | Path | None,
        hypothesis: str | None,
        premise: str | None = None,
        *,
        source: Source = "api",
        arrived: float | None = None,
        caller: str = "",
        future: VerdictFuture | None = None,
    ) -> VerdictFuture:
        """A future that will hold the verdict, or the reason for none. Checks the input in this thread, and
        waits here while a picture file is read.

        ``arrived`` is when the request came (``time.monotonic()``; now, unless given): the time limit counts
        from there. ``caller`` is whose request it is, "" for a script in this process. ``future`` is what is
        returned; cancelling it ends the request wherever it is.

        Raises InputError for input that cannot be judged.
        """
        arrived = time.monotonic() if arrived is None else arrived
        future = VerdictFuture() if future is None else future
        limit = self._settings.probe_timeout if source == "probe" else self._settings.timeout
        pair = raw_pair(hypothesis, premise)
        request = Request(new_id(time.time()), pair, arrived, arrived + limit, source)
        try:
            self._check_phase()
            self._engine.check(source)  # before the work of decoding, which overload is no time for
            request, removed = self._intake.accept(image, hypothesis, premise, request, caller, future)
            if future.cancelled():
                raise Abandoned
        except InputError as error:
            self._journal.refused(with_image_size(request, error), error, time.monotonic() - arrived)
            raise
        except ServiceError as error:
            return self._refused(request, error, future)
        except MemoryError as error:
            full = OutOfMemory("The machine's memory is full.")
            full.__cause__ = error
            return self._refused(request, full, future)
        self._journal.started(request, removed)
        return self._engine.submit(request, future)

    def _check_phase(self) -> None:
        phase = self._status.phase
        if phase is Phase.STOPPING or (phase is Phase.FAILED and self.fatal in _RESTARTING):
            raise ShuttingDown("The service is stopping.")
        if phase is Phase.FAILED:
            raise NotReady("The model could not be loaded.", remedy="The log says why.")
        if phase is not Phase.LOADED:
            raise NotReady("The model is still loading.")

    def _refused(self, request: Request, error: ServiceError, future: VerdictFuture) -> VerdictFuture:
        seconds = time.monotonic() - request.arrived
        self._journal.refused(request, error, seconds)
        if future.set_running_or_notify_cancel():
            future.set_result(no_verdict(error, request, seconds))
        return future

    # ---- health ------------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        return self._status.snapshot()

    def report(self) -> Report:
        """The state of health, from what is known already: no inference, no waiting."""
        return health.judge(
            self._status.snapshot(),
            self._sampler.latest(),
            now=time.monotonic(),
            unix=time.time(),
            evidence_ttl=self._settings.evidence_ttl,
            versions=versions(),
            log_lines_lost=logs.lost_lines(),
            log_failing=logs.failing(),
        )

    def exposition(self) -> bytes:
        """What a Prometheus server scrapes: the same, and everything that was counted."""
        return self._metrics.exposition()

    # ---- inside ------------------------------------------------------------------------------------------

    def _start_threads(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
            self._engine.start()
            self._sampler.start()
            self._prober.start()
            self.operations.start()
            if self._memory_fallback is not None:
                self._memory_fallback.start()

    def _is_loaded(self) -> bool:
        return self._status.phase is Phase.LOADED

    def _load(self, began: float, verify: str | None = None) -> bool:
        try:
            replaced = self._loader.run(verify)
        except ShuttingDown:
            return False
        except ServiceError as error:
            _log.critical("MODEL_NOT_LOADED%s | EXIT=%d | %s", told(error), error.exit_code, error.remedy)
            self._give_up(error)
            return False
        if not self._move(Phase.LOADED, ready_seconds=time.monotonic() - began, last_error=None):
            return False
        if self._memory_fallback is not None:
            self._memory_fallback.loaded()
        self._settler.arm()
        self._prober.enable(new_weights=replaced)
        return True

    # ---- what the parts report ---------------------------------------------------------------------------

    def proven(self, now: float) -> None:
        """A user got a finite answer at ``now``."""
        self._sound = True
        self._prober.inference_succeeded(now)
        self._settler.begin()

    def unstable(self) -> None:
        """Probes in a row were wrong: load the model again from verified files, once; then give up."""
        self._prober.disable()  # what is known to be wrong need not be asked again before it is mended
        if self._doubted:
            error: ServiceError = Unstable(
                "The model answers its probe wrongly even after it was loaded again."
            )
            if not self._sound:
                error = UnusableWeights("The model's scores are no numbers, even after it was loaded again.")
            _log.critical("UNSTABLE%s | EXIT=%d | %s", told(error), error.exit_code, error.remedy)
            self._give_up(error)
            return
        self._doubted = True
        _log.error("RELOADING | The probe's answers are wrong: the files are verified and loaded again.")
        self.reload()

    def reload(self) -> None:
        """Verify the files in full and load the model again, in a thread of its own."""
        self._loader_thread = threading.Thread(target=self._reload, name="loader", daemon=True)
        self._loader_thread.start()

    def agreed(self) -> None:
        """A probe was answered rightly."""
        self._doubted, self._sound = False, True
        self._settler.begin()

    def _reload(self) -> None:
        with self._loading:
            began, reloads = time.monotonic(), self._status.snapshot().reloads + 1
            if not self._move(Phase.LOADING, reloads=reloads):
                return
            self._prober.disable()
            if self._memory_fallback is not None:
                self._memory_fallback.reset()
            self._load(began, verify="full")

    def lost(self, error: ServiceError) -> None:
        """An error that only a new process heals: the device is lost, the memory limit was reached."""
        _log.critical("RESTART_NEEDED%s | EXIT=%d | %s", told(error), error.exit_code, error.remedy)
        self._prober.disable()
        self._give_up(error)

    def hung(self, requests: Sequence[Request], seconds: float) -> None:
        """A computation is stuck for good: write down what is known and end the process.

        Called by the engine's timer. All of it works while the engine's thread never comes back: nothing here
        waits for another thread.
        """
        if self._status.phase is Phase.STOPPING:
            return  # a stop is bounded by itself and has its own exit code
        error = Hung(f"A computation did not stop for {seconds:.0f} s.")
        self._prober.disable()
        try:
            path = self._write_postmortem(requests, error)
            _log.critical("HUNG%s | EXIT=%d | POSTMORTEM=%s", told(error), error.exit_code, path)
        except Exception as failure:  # whatever it tripped over: the process leaves
            _log.critical(
                "HUNG%s | EXIT=%d | POSTMORTEM_ERROR=%s", told(error), error.exit_code, type(failure).__name__
            )
        finally:
            if self._leave is not None:
                write_exit(self._settings.run_dir, int(error.exit_code), error.message)
                self._leave(int(error.exit_code))
            self._give_up(error)

    def _write_postmortem(self, requests: Sequence[Request], error: Hung) -> str | None:
        """The name of the file; None if it could not be written."""
        told_of = postmortem.sections(
            requests, self._status.snapshot(), self._sampler.latest(), self._journal.recent, versions()
        )
        path = postmortem.write(self._settings.run_dir, error.message, told_of)
        return path.name if path is not None else None

    def _give_up(self, error: ServiceError) -> None:
        """The process should leave, with the error's exit code."""
        self._move(Phase.FAILED, fatal=int(error.exit_code), last_error=error.message)
        self._ended.set()

    def _move(self, phase: Phase, **changes: Any) -> bool:
        """Move on. False, with nothing changed, if there is no way from here: we are there already, or the
        service has ended meanwhile."""
        with self._lock:
            ending = self._status.fatal in _RESTARTING and phase is not Phase.STOPPING
            if ending or phase not in MOVES[self._status.phase]:
                return False
            self._status.move(phase, **changes)
            return True

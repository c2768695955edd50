"""The application: every part is made and joined here, and nowhere else.

A request is checked and decoded in its caller's thread, then waits in the engine's queue. The model is loaded
by a thread of its own, with attempts and pauses; until then requests are answered ``loading``. Stopping goes
in order and within bounds: refuse, drain, cancel, end.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final, NoReturn

from PIL import Image

from service import health, hub, image_input, resources, text
from service.engine import Engine, Limits
from service.errors import (
    DeadlineExceeded,
    ExitCode,
    InputError,
    NotReady,
    OutOfMemory,
    ServiceError,
    ShuttingDown,
)
from service.health import Report
from service.loader import Loader, Resolve, shown_name, told
from service.logs import RequestLog, lost_lines
from service.prober import Prober
from service.protocols import Model
from service.request import Pair, Request, Source, Verdict, new_id
from service.settings import Settings
from service.status import Phase, Snapshot, Status

DECODERS: Final = 4  # pictures decoded at once: a large one takes half a gigabyte while it is
PROBE_TEXT: Final = "a photo"
EXIT_FILE: Final = "last_exit.json"
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
    ) -> None:
        self._settings = settings
        self._model = model
        self._status = status
        self._engine = engine
        self._prober = prober
        self._sampler = sampler
        self._loader = loader
        self._journal = journal
        self._decoding = threading.BoundedSemaphore(DECODERS)
        self._ended = threading.Event()
        self._lock = threading.Lock()  # guards _started, _stopped and the moves of the phase
        self._loading = threading.Lock()  # held while a model is being loaded
        self._started = False
        self._stopped = False
        self._loader_thread = threading.Thread(target=self.load, name="loader", daemon=True)

    # ---- life --------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads and begin to load the model."""
        self._start_threads()
        self._loader_thread.start()

    def load(self) -> bool:
        """Load the model with its retries, or wait while another thread does; True once it is loaded."""
        self._start_threads()
        with self._loading:
            if self._status.phase is Phase.LOADED:
                return True
            began = time.monotonic()
            if not self._move(Phase.LOADING, fatal=None):
                return False
            try:
                self._loader.run()
            except ShuttingDown:
                return False
            except ServiceError as error:
                _log.critical("MODEL_NOT_LOADED%s | EXIT=%d | %s", told(error), error.exit_code, error.remedy)
                self._give_up(error)
                return False
            return self._loaded(time.monotonic() - began)

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
        waiting = before.activity.depth + before.activity.running
        _log.info("STOPPING | CODE=%d | REASON=%s | UNANSWERED=%d | GRACE=%gs", code, reason, waiting, grace)
        self._loader.stopping.set()
        self._prober.disable()
        ended = self._engine.stop(grace)
        self._prober.stop()
        self._sampler.stop()
        if self._loader_thread.ident is not None:
            self._loader_thread.join(1.0)
        ended &= not self._loader_thread.is_alive()
        if ended:
            self._model.close()
        write_exit(self._settings.run_dir, int(code), reason)
        self._ended.set()
        return ended

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
    ) -> Future[Verdict]:
        """A future that will hold the verdict, or the reason for none. Checks and decodes in this thread.

        Raises InputError for input that cannot be judged.
        """
        arrived = time.monotonic()
        limit = self._settings.probe_timeout if source == "probe" else self._settings.timeout
        request_id = new_id(time.time())
        try:
            self._check_phase()
            self._engine.check(source)  # before the work of decoding, which overload is no time for
            request, size, removed = self._accepted(
                image, hypothesis, premise, Request(request_id, _NOTHING, arrived, arrived + limit, source)
            )
        except InputError as error:
            self._journal.refused(request_id, error, time.monotonic() - arrived)
            raise
        except ServiceError as error:
            return self._refused(request_id, error, arrived)
        except MemoryError as error:
            full = OutOfMemory("The machine's memory is full.")
            full.__cause__ = error
            return self._refused(request_id, full, arrived)
        self._journal.started(request, size, removed)
        return self._engine.submit(request)

    def _accepted(
        self, image: object, hypothesis: object, premise: object, frame: Request
    ) -> tuple[Request, tuple[int, int], dict[str, int]]:
        """The request with clean texts and a small picture, the picture's size as sent, what was removed."""
        settings = self._settings
        texts = text.prepare(hypothesis, premise, settings.max_chars)
        self._check_premise(texts.premise)
        with self._decoder(frame):
            picture = image_input.load(image, max_bytes=settings.max_bytes, max_pixels=settings.max_pixels)
            small = self._model.prepare(picture.image)
        pair = Pair(small, texts.hypothesis, texts.premise)
        request = Request(frame.id, pair, frame.arrived, frame.deadline, frame.source)
        return request, picture.size, dict(texts.removed)

    @contextmanager
    def _decoder(self, request: Request) -> Iterator[None]:
        """One of the few places for decoding; a probe's small picture needs none and waits for none."""
        if request.source == "probe":
            yield
            return
        if not self._decoding.acquire(timeout=max(0.0, request.deadline - time.monotonic())):
            raise DeadlineExceeded("Too many pictures are being read at once.")
        try:
            yield
        finally:
            self._decoding.release()

    def _check_premise(self, premise: str | None) -> None:
        takes = self._model.takes_premise
        if takes is False and premise is not None:
            raise InputError(
                "This model's prompt has no place for a premise.",
                code="premise_refused",
                remedy="Leave the premise out.",
            )
        if takes is True and premise is None:
            raise InputError(
                "This model compares two texts.", code="premise_needed", remedy="Give a premise as well."
            )

    def _check_phase(self) -> None:
        phase = self._status.phase
        if phase is Phase.STOPPING:
            raise ShuttingDown("The service is stopping.")
        if phase is Phase.FAILED:
            raise NotReady("The model could not be loaded.", remedy="The log says why.")
        if phase is not Phase.LOADED:
            raise NotReady("The model is still loading.")

    def _refused(self, request_id: str, error: ServiceError, arrived: float) -> Future[Verdict]:
        seconds = time.monotonic() - arrived
        self._journal.refused(request_id, error, seconds)
        future: Future[Verdict] = Future()
        retry_after = getattr(error, "retry_after", None)
        future.set_result(
            Verdict.none(
                error.code, retry_after=retry_after, duration=seconds, request_id=request_id, error=error
            )
        )
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
            versions=_versions(),
            log_lines_lost=lost_lines(),
        )

    # ---- inside ------------------------------------------------------------------------------------------

    def _start_threads(self) -> None:
        with self._lock:
            if self._started:
                return
            self._started = True
            self._engine.start()
            self._sampler.start()
            self._prober.start()

    def _loaded(self, seconds: float) -> bool:
        model = self._model
        if not self._move(
            Phase.LOADED, device=model.device, dtype=model.dtype, ready_seconds=seconds, last_error=None
        ):
            return False
        self._prober.enable()
        return True

    def lost(self, error: ServiceError) -> None:
        """The engine met an error that only a new process heals."""
        _log.critical("DEVICE_LOST%s | EXIT=%d | %s", told(error), error.exit_code, error.remedy)
        self._prober.disable()
        self._give_up(error)

    def _give_up(self, error: ServiceError) -> None:
        """The process should leave, with the error's exit code."""
        self._move(Phase.FAILED, fatal=int(error.exit_code), last_error=error.message)
        self._ended.set()

    def _move(self, phase: Phase, **changes: Any) -> bool:
        """Move on. False, with nothing changed, if we are there already or stopping, which is the end."""
        with self._lock:
            if self._stopped or self._status.phase is phase:
                return False
            self._stopped = phase is Phase.STOPPING
            self._status.move(phase, **changes)
            return True


_NOTHING: Final = Pair(Image.new("RGB", (1, 1)), "")


def build(settings: Settings, *, model: Model | None = None, resolve: Resolve = hub.resolve) -> Application:
    """The application of ``settings``. Starts nothing and loads nothing."""
    model = model if model is not None else _model_of(settings)
    journal = RequestLog()
    application: Application
    engine = Engine(
        model,
        journal,
        Limits(
            queue_size=settings.queue_size,
            cancel_grace=settings.cancel_grace,
            hang_limit=settings.hang_limit,
        ),
        on_proof=lambda now: prober.proven(now),
        on_fatal=lambda error: application.lost(error),
    )
    # The probe takes the users' way from the first step: cleaning, decoding, queue, model.
    grey = Image.new("RGB", (64, 64), (128, 128, 128))
    prober = Prober(
        lambda: application.submit(
            grey, PROBE_TEXT, PROBE_TEXT if model.takes_premise else None, source="probe"
        ),
        interval=settings.probe_interval,
        golden_interval=settings.golden_interval,
        timeout=settings.probe_timeout,
    )
    first = Snapshot(model=shown_name(settings.model), started_unix=int(time.time()))
    status = Status(first, activity=engine.activity, evidence=prober.evidence)
    application = Application(
        settings,
        model=model,
        status=status,
        engine=engine,
        prober=prober,
        sampler=resources.Sampler([settings.run_dir], model.gpu),
        loader=Loader(settings, model, status, resolve),
        journal=journal,
    )
    return application


def _model_of(settings: Settings) -> Model:
    if settings.backend == "modelscope":
        from service.modelscope_backend import ChildPredictor

        return ChildPredictor(
            settings.reference_python,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
        )
    from service.predictor import NativePredictor

    return NativePredictor(device=settings.device, dtype=settings.dtype, threads=settings.threads)


def write_exit(run_dir: Path, code: int, reason: str) -> None:
    """Say in ``last_exit.json`` how this process ended: a guardian that did not start it cannot ask.

    ``start_ticks`` is the start in clock ticks since boot, as in /proc/PID/stat. Failing is no reason not
    to end.
    """
    try:
        told = {
            "pid": os.getpid(),
            "start_ticks": resources.process_start_ticks(),
            "exit_unix": int(time.time()),
            "code": code,
            "reason": reason,
        }
        part = run_dir / f".{EXIT_FILE}.{os.getpid()}"
        part.write_text(json.dumps(told) + "\n", encoding="utf-8")
        part.replace(run_dir / EXIT_FILE)
    except OSError as error:
        _log.warning("EXIT_FILE | ERROR=%s", type(error).__name__)


def leave(code: int) -> NoReturn:
    """End the process at once, its output flushed. For when a thread is left in native code: the
    interpreter's own way out would tear libraries down under it, and end in a crash instead of ``code``."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


@cache
def _versions() -> dict[str, str]:
    """The packages that decide an answer. Read from their metadata, so that nothing heavy is imported."""
    found = {}
    for name in ("torch", "tokenizers", "pillow", "gradio"):
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found

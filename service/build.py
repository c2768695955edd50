"""The composition root: every part of the application is made and joined here, and nowhere else."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from PIL import Image

import doctor
from service.application import Application
from service.contract.events import Observers
from service.contract.protocols import Listed, Model, MultiDevice
from service.contract.request import Pair
from service.contract.status import Snapshot, Status
from service.health import resources
from service.health.memory_limit import MemoryLimit
from service.health.prober import Prober
from service.hub import resolve as hub
from service.inference import latency
from service.inference.converting import Settler
from service.inference.engine import Engine, Limits
from service.inference.loader import Loader, Resolve
from service.inference.memory_fallback import MemoryFallback, Pauses
from service.intake.readers import Readers
from service.listening import Connections
from service.operations import Operations
from service.settings import Settings
from service.telemetry import logs
from service.telemetry.gauges import RESTARTS_FILE, GaugeInputs
from service.telemetry.history import History
from service.telemetry.logs import RequestLog
from service.telemetry.metrics import Metrics
from service.telemetry.vitals import Vitals

__all__ = ["PROBE_TEXT", "Application", "build"]

PROBE_TEXT: Final = "a photo"
#: Seconds. Tests and the fault suite replace these three.
LOAD_PAUSE: Final = 5.0  # after the first failed attempt to load; doubles with each
RETRY_GPU_PAUSE: Final = 5.0  # before the GPU is retried after it ran out of memory; doubles, up to 300 s
BASELINE_INTERVAL: Final = 300.0  # a probe runs this often even under traffic, to compare its label
EXAMINED_BYTES: Final = (
    2 << 20
)  # of each log: what the doctor reads inside the service is read beside requests
_GREY: Final = Image.new("RGB", (64, 64), (128, 128, 128))


def build(
    settings: Settings,
    *,
    model: Model | None = None,
    resolve: Resolve = hub.resolve,
    leave: Callable[[int], object] | None = None,
    connections: Sequence[Connections] = (),
) -> Application:
    """The application of ``settings``. Starts nothing and loads nothing.

    ``leave`` ends the process with an exit code, at once: given by a program whose process is the service's
    own, it is called when a computation hangs. A script that imports the service is never ended by it.
    ``connections`` are the servers', for the metrics.
    """
    model = model if model is not None else _model_of(settings)
    metrics, vitals, readers = Metrics(), Vitals(), Readers()
    application: Application
    sampler = resources.Sampler(
        [settings.run_dir, Path(tempfile.gettempdir())],
        model.gpu,
        readers=readers.pids,
        on_sample=lambda sample: _look(sample, vitals, memory_limit),
    )
    history = History(lambda: status.snapshot(), sampler.latest, evidence_ttl=settings.evidence_ttl)
    journal = RequestLog(observer=Observers(metrics, history))
    listed = _listed_of(settings, resolve)
    memory_fallback = (
        _ladder_of(settings, model, sampler, metrics, lambda: application)
        if isinstance(model, MultiDevice)
        else None
    )
    engine = Engine(
        memory_fallback or model,
        journal,
        Limits(
            queue_size=settings.queue_size,
            timeout=settings.timeout,
            # ModelScope's process answers one pair after the other: together they would only wait longer.
            max_batch=1 if settings.backend == "modelscope" else settings.max_batch,
            cancel_grace=settings.cancel_grace,
            hang_limit=settings.hang_limit,
        ),
        on_proof=lambda now: application.proven(now),
        on_fatal=lambda error: application.lost(error),
        on_hung=lambda requests, seconds: application.hung(requests, seconds),
        forecast=latency.load(settings.run_dir),
    )
    # The probe takes the users' way from the first step: cleaning, decoding, queue, model.
    prober = Prober(
        lambda: application.submit(
            _GREY, PROBE_TEXT, PROBE_TEXT if model.takes_premise else None, source="probe"
        ),
        interval=settings.probe_interval,
        baseline_interval=BASELINE_INTERVAL,
        timeout=settings.probe_timeout,
        on_probe_failing=lambda: application.unstable(),
        on_probe_passed=lambda: application.agreed(),
        observer=metrics,
    )
    memory_limit = MemoryLimit(
        rss=settings.max_rss,
        gpu=settings.max_gpu_memory,
        held=lambda: model.reserved()[0] if isinstance(model, MultiDevice) else 0,
        empty_cache=lambda: model.empty_cache() if isinstance(model, MultiDevice) else None,
        on_reached=lambda error: application.lost(error),
    )
    first = Snapshot(model=hub.shown_name(settings.model), started_unix=int(time.time()))
    status = Status(
        first,
        activity=engine.activity,
        evidence=prober.evidence,
        place=lambda: {
            "device": model.device,
            "dtype": model.dtype,
            "degraded": memory_fallback.degraded if memory_fallback is not None else None,
        },
        reading=readers.state,
    )
    application = Application(
        settings,
        model=model,
        status=status,
        engine=engine,
        prober=prober,
        sampler=sampler,
        loader=Loader(settings, model, status, resolve, metrics, listed, pause=LOAD_PAUSE),
        journal=journal,
        metrics=metrics,
        operations=Operations(
            report=lambda: application.report(),
            snapshot=status.snapshot,
            resources=sampler.latest,
            history=history,
            model=model,
            ask_probe=prober.ask_now,
            run_dir=settings.run_dir,
            examine=lambda: doctor.examine(settings.run_dir, EXAMINED_BYTES),
        ),
        memory_fallback=memory_fallback,
        settler=Settler(model, listed, on_damaged=lambda: application.reload()),
        readers=readers,
        leave=leave,
    )
    metrics.set_inputs(
        GaugeInputs(
            report=application.report,
            snapshot=status.snapshot,
            resources=sampler.latest,
            lost_lines=logs.lost_lines,
            restarts=settings.run_dir / RESTARTS_FILE,
            reserved=lambda: model.reserved()[0] if isinstance(model, MultiDevice) else 0,
            guard=getattr(model, "guard_counts", lambda: None),
            connections=connections,
        )
    )
    return application


def _look(sample: resources.Resources, vitals: Vitals, memory_limit: MemoryLimit) -> None:
    """Called by the sampler's thread with each sample."""
    vitals.look(sample)
    memory_limit.check(sample)


def _ladder_of(
    settings: Settings,
    model: MultiDevice,
    sampler: resources.Sampler,
    metrics: Metrics,
    application: Callable[[], Application],
) -> MemoryFallback:
    def gpu_use() -> tuple[int, int] | None:
        card = sampler.latest().gpu
        return None if card is None else (card.used, card.total)

    def sample() -> Pair:
        return Pair(_GREY, PROBE_TEXT, PROBE_TEXT if model.takes_premise else None)

    return MemoryFallback(
        model,
        sample,
        pauses=Pauses(first=RETRY_GPU_PAUSE),
        gpu_use=gpu_use,
        on_fatal=lambda error: application().lost(error),
        observer=metrics,
    )


def _listed_of(settings: Settings, resolve: Resolve) -> Listed:
    """The hub's checksums; of files that come from elsewhere there are none."""
    if resolve is not hub.resolve:
        return lambda path: None
    return functools.partial(
        hub.listed_checksum,
        model=settings.model,
        revision=settings.revision,
        cache_dir=settings.cache_dir,
    )


def _model_of(settings: Settings) -> Model:
    if settings.backend == "modelscope":
        from service.inference.modelscope.backend import ChildPredictor

        return ChildPredictor(
            settings.reference_python,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
        )
    from service.inference.native import NativePredictor

    return NativePredictor(
        device=settings.device,
        dtype=settings.dtype,
        threads=settings.threads,
        guard=settings.precision_guard == "on",
        cache=hub.converted_cache(settings.cache_dir) if settings.converted_cache == "on" else None,
    )

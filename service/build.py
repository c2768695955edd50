"""The composition root: the only place where the parts of the application are made and joined."""

from __future__ import annotations

import functools
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import doctor
from service.api_keys import ApiKeys
from service.application import PROBE_PICTURE, PROBE_TEXT, Application, Prepares
from service.contract.events import Events
from service.contract.protocols import Deferring, Listed, Loads, Model, MultiDevice, RequestEngine
from service.contract.request import Pair, Verdict
from service.contract.status import DeviceState, Remote, Snapshot, Status
from service.health.memory_limit import MemoryLimit
from service.health.prober import Prober
from service.health.resources import Sampler, memory_left
from service.hub import resolve as hub
from service.inference.converting import Converter
from service.inference.engine import Engine, Limits
from service.inference.late_loading import LateLoader
from service.inference.loader import Loader, Resolve
from service.inference.memory_fallback import Fallback, MemoryFallback, Pauses
from service.intake.prepare import Intake
from service.intake.readers import Readers
from service.lifecycle import Parts, Supervisor
from service.listening import Connections
from service.operations import Operations
from service.settings import Settings
from service.telemetry import logs
from service.telemetry.gauges import RESTARTS_FILE, GaugeInputs
from service.telemetry.history import History
from service.telemetry.metrics import Metrics
from service.telemetry.reporter import Reporter
from service.telemetry.request_log import RequestLog
from service.telemetry.vitals import Vitals

if TYPE_CHECKING:
    from service.telemetry.traces import Traces

__all__ = ["Application", "build"]

#: Seconds. Tests and the fault suite replace the next three.
LOAD_PAUSE: Final = 5.0  # after the first failed attempt to load; doubles with each
RETRY_GPU_PAUSE: Final = 5.0  # before the GPU is retried after it ran out of memory; doubles, up to 300 s
BASELINE_INTERVAL: Final = 300.0  # a probe runs this often even under traffic, to compare its label
DOCTOR_BYTES: Final = 2 << 20  # of each log, so that the doctor stays cheap beside requests


def build(
    settings: Settings,
    *,
    model: Model | None = None,
    resolve: Resolve = hub.resolve,
    exit_now: Callable[[int], object] | None = None,
    connections: Sequence[Connections] = (),
) -> Application:
    """Make the application of ``settings``. Starts nothing and loads nothing.

    ``exit_now`` ends the process with an exit code when a computation hangs; only a program that owns its
    process passes it. ``connections`` are the servers', for the metrics.
    """
    status = Status(_first_snapshot(settings))
    model = model if model is not None else _model(settings, status)
    supervisor = Supervisor(settings, status, exit_now)

    readers = Readers()
    vitals, memory_limit = Vitals(), _memory_limit(settings, model, supervisor)
    sampler = Sampler(
        [settings.run_dir, Path(tempfile.gettempdir())],
        model.gpu,
        readers=readers.pids,
        on_sample=[vitals.sample, memory_limit.check],
    )
    request_log, metrics = RequestLog(), Metrics()
    keys = ApiKeys(settings.api_keys_file) if settings.api_keys_file is not None else None
    history = History(status.snapshot, sampler.latest, evidence_ttl=settings.evidence_ttl)
    traces = _traces(settings)
    events = Events(request_log, history, metrics, *traces)

    fallback = _fallback(model, sampler, supervisor, events)
    listed = _listed(settings, resolve)
    if settings.engine is None:
        judging = _local(settings, model, fallback, status, supervisor, events, readers, resolve, listed)
    else:
        judging = _remote(settings, model, supervisor, events)
    reporter = Reporter(status, sampler, settings.evidence_ttl)
    operations = Operations(
        reporter=reporter,
        status=status,
        sampler=sampler,
        history=history,
        model=model,
        probe_now=supervisor.probe_now,
        run_dir=settings.run_dir,
        examine=functools.partial(doctor.examine, settings.run_dir, DOCTOR_BYTES),
    )
    application = Application(
        settings,
        supervisor=supervisor,
        operations=operations,
        status=status,
        intake=judging.intake,
        engine=judging.engine,
        events=events,
        reporter=reporter,
        metrics=metrics,
        api_keys=keys,
    )
    prober = Prober(
        application.probe,
        interval=settings.probe_interval,
        baseline_interval=BASELINE_INTERVAL,
        timeout=settings.probe_timeout,
        on_probe_failing=supervisor.probe_failing,
        on_probe_passed=supervisor.probe_passed,
        one_model=settings.engine is None,
        events=events,
    )

    # The parts that others were made with, completed now that all exist.
    status.attach(
        activity=judging.engine.activity,
        evidence=prober.evidence,
        reading=readers.state,
        device=functools.partial(_device, model, fallback),
    )
    supervisor.attach(
        Parts(
            model=model,
            engine=judging.engine,
            fallback=fallback,
            loader=judging.loader,
            late_loader=judging.late_loader,
            converter=Converter(model, listed, on_damaged=supervisor.reload),
            prober=prober,
            sampler=sampler,
            history=history,
            readers=readers,
            request_log=request_log,
            traces=traces,
        )
    )
    metrics.set_inputs(
        GaugeInputs(
            report=reporter.report,
            snapshot=status.snapshot,
            resources=sampler.latest,
            lost_lines=logs.lost_lines,
            restarts=settings.run_dir / RESTARTS_FILE,
            reserved=functools.partial(_reserved, model),
            guard=getattr(model, "guard_counts", lambda: None),
            connections=connections,
            api_keys_outdated=lambda: keys is not None and keys.outdated,
        )
    )
    return application


def _first_snapshot(settings: Settings) -> Snapshot:
    if settings.engine is not None:
        return Snapshot(remote=Remote(settings.engine), started_unix=int(time.time()))
    return Snapshot(model=hub.shown_name(settings.model), started_unix=int(time.time()))


class _Judging(NamedTuple):
    """What judges requests, and what prepares both for it."""

    engine: RequestEngine
    intake: Prepares
    loader: Loads
    late_loader: LateLoader


def _local(
    settings: Settings,
    model: Model,
    fallback: Fallback,
    status: Status,
    supervisor: Supervisor,
    events: Events,
    readers: Readers,
    resolve: Resolve,
    listed: Listed,
) -> _Judging:
    engine = Engine(
        fallback if isinstance(fallback, MemoryFallback) else model,
        events,
        _limits(settings),
        on_success=supervisor.inference_succeeded,
        on_fatal=supervisor.restart_needed,
        on_hung=supervisor.hung,
        verdict_of=lambda scores, **known: Verdict.of(scores, calibration=status.calibration, **known),
    )
    late_loader = LateLoader(engine.retry_deferred)
    if isinstance(model, Deferring):
        model.defer(late_loader.begin)
    loader = Loader(settings, model, status, resolve, events, listed, pause=LOAD_PAUSE)
    return _Judging(engine, Intake(settings, model, readers), loader, late_loader)


def _remote(settings: Settings, model: Model, supervisor: Supervisor, events: Events) -> _Judging:
    """With --engine: only this process imports the HTTP client, and it imports no network."""
    from service.engine_key import EngineKey
    from service.remote.engine import RemoteEngine
    from service.remote.intake import RemoteIntake
    from service.remote.model import RemoteLoader, RemoteModel

    assert settings.engine is not None
    assert isinstance(model, RemoteModel)
    engine = RemoteEngine(
        settings.engine,
        EngineKey(settings.engine_key_file) if settings.engine_key_file is not None else None,
        events,
        _limits(settings),
        on_change=model.show,
        on_success=supervisor.inference_succeeded,
    )
    return _Judging(engine, RemoteIntake(settings), RemoteLoader(engine.wait_first), LateLoader(lambda: None))


def _model(settings: Settings, status: Status) -> Model:
    if settings.engine is not None:
        from service.remote.model import RemoteModel

        return RemoteModel(status)
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
        memory_left=memory_left,
    )


def _traces(settings: Settings) -> Sequence[Traces]:
    if settings.otlp_endpoint is None:
        return ()
    from service.telemetry.traces import Traces

    return (Traces(settings.otlp_endpoint),)


def _limits(settings: Settings) -> Limits:
    return Limits(
        queue_size=settings.queue_size,
        timeout=settings.timeout,
        # ModelScope's process judges one pair after another, so a batch would only delay its answers.
        max_batch=1 if settings.backend == "modelscope" else settings.max_batch,
        # A computation of that process can only be stopped by starting another one.
        preemptions=0 if settings.backend == "modelscope" else Limits.preemptions,
        cancel_grace=settings.cancel_grace,
        hang_limit=settings.hang_limit,
    )


def _fallback(model: Model, sampler: Sampler, supervisor: Supervisor, events: Events) -> Fallback:
    if not isinstance(model, MultiDevice):
        return Fallback()

    def gpu_use() -> tuple[int, int] | None:
        card = sampler.latest().gpu
        return None if card is None else (card.used, card.total)

    def sample() -> Pair:
        premise = PROBE_TEXT if model.takes_premise else None
        return Pair(PROBE_PICTURE, PROBE_TEXT, premise, guarded=False)

    return MemoryFallback(
        model,
        sample,
        pauses=Pauses(first=RETRY_GPU_PAUSE),
        gpu_use=gpu_use,
        on_fatal=supervisor.restart_needed,
        events=events,
    )


def _memory_limit(settings: Settings, model: Model, supervisor: Supervisor) -> MemoryLimit:
    return MemoryLimit(
        rss=settings.max_rss,
        gpu=settings.max_gpu_memory,
        held=functools.partial(_reserved, model),
        empty_cache=model.empty_cache if isinstance(model, MultiDevice) else lambda: None,
        on_reached=supervisor.restart_needed,
    )


def _device(model: Model, fallback: Fallback) -> DeviceState:
    return DeviceState(model.device, model.dtype, fallback.degraded)


def _reserved(model: Model) -> int:
    """Return the bytes of GPU memory that the process has reserved."""
    return model.reserved()[0] if isinstance(model, MultiDevice) else 0


def _listed(settings: Settings, resolve: Resolve) -> Listed:
    """Return the lookup of the hub's checksums; other files have none."""
    if resolve is not hub.resolve:
        return lambda path: None
    return functools.partial(
        hub.listed_checksum,
        model=settings.model,
        revision=settings.revision,
        cache_dir=settings.cache_dir,
    )

"""Metrics read at each scrape from the state that other parts keep. Nothing here samples or computes."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from service.contract.causes import RestartCause
from service.contract.status import Snapshot
from service.health.report import Report
from service.health.resources import Resources
from service.listening import CLOSED, Connections
from service.telemetry.versions import PACKAGES, versions

#: Beside the logs, written by the guardian: a line ``cause count`` for each cause of a restart.
RESTARTS_FILE: Final = "restart_counts"

_LEVELS: Final = ("healthy", "warning", "critical")
#: The words of ``/health``; of ``failed: …`` the first one.
CHECKS: Final[Mapping[str, tuple[str, ...]]] = {
    "process": ("healthy",),
    "gpu": (*_LEVELS, "disabled"),
    "memory": _LEVELS,
    "disk": _LEVELS,
    "model": ("uninitialized", "loading", "loaded", "failed"),
    "inference": ("success", "failed", "timeout", "stale", "unstable"),
}


@dataclass(frozen=True, kw_only=True)
class GaugeInputs:
    """Where the values come from. ``reserved`` returns the bytes of GPU memory reserved by this process,
    ``guard`` the answers judged by the precision guard and, by number format, those recomputed in it; None
    without a guard."""

    report: Callable[[], Report]
    snapshot: Callable[[], Snapshot]
    resources: Callable[[], Resources]
    lost_lines: Callable[[], int]
    restarts: Path
    reserved: Callable[[], int] = lambda: 0
    guard: Callable[[], tuple[int, Mapping[str, int]] | None] = lambda: None
    connections: Sequence[Connections] = ()
    api_keys_outdated: Callable[[], bool] = lambda: False


class Gauges(Collector):
    """A collector for prometheus_client."""

    def __init__(self, inputs: GaugeInputs) -> None:
        self._inputs = inputs

    def collect(self) -> Iterator[Metric]:
        inputs = self._inputs
        snapshot, resources = inputs.snapshot(), inputs.resources()
        yield from _health(inputs.report())
        yield from _evidence(snapshot)
        yield from _work(snapshot)
        yield from _readers(snapshot)
        yield from _model(snapshot)
        yield from _memory(resources, inputs.reserved)
        yield from _guard(inputs.guard())
        yield from _connections(inputs.connections)
        yield _restarts(inputs.restarts)
        yield _counter("ofa_log_lines_lost", "Log lines that could not be written.", inputs.lost_lines())
        yield _gauge(
            "ofa_api_keys_outdated",
            "1 while the API keys file has changed and cannot be reloaded.",
            inputs.api_keys_outdated(),
        )
        yield _build()


def _health(report: Report) -> Iterator[Metric]:
    checks = GaugeMetricFamily(
        "ofa_health_check_status",
        "1 for the current status of a check of /health, 0 for its other statuses.",
        labels=["check", "status"],
    )
    for check, words in CHECKS.items():
        status = report.details[check].partition(":")[0]
        for word in words:
            checks.add_metric([check, word], float(word == status))
    yield checks
    yield _gauge("ofa_healthy", "1 while the model is loaded and inference succeeds.", report.healthy)
    yield _gauge("ofa_ready", "1 while ready for traffic (/readyz).", report.ready.ok)
    yield _gauge("ofa_live", "0 when only a restart helps (/livez).", report.live.ok)


def _evidence(snapshot: Snapshot) -> Iterator[Metric]:
    evidence = snapshot.evidence
    age = GaugeMetricFamily(
        "ofa_evidence_age_seconds", "Age of the last successful inference; absent before the first."
    )
    success = GaugeMetricFamily(
        "ofa_last_success_timestamp_seconds",
        "Unix time of the last successful inference; absent before the first.",
    )
    if evidence.proven_at is not None:
        seconds = max(0.0, time.monotonic() - evidence.proven_at)
        age.add_metric([], seconds)
        success.add_metric([], round(time.time() - seconds, 3))
    yield age
    yield success


def _work(snapshot: Snapshot) -> Iterator[Metric]:
    activity = snapshot.activity
    yield _gauge("ofa_queue_depth_requests", "Requests waiting in the queue.", activity.depth)
    yield _gauge("ofa_queue_capacity_requests", "Capacity of the queue.", activity.capacity)
    yield _gauge(
        "ofa_background_depth_requests", "Background rows waiting, outside the queue.", activity.background
    )
    running = activity.running_for if activity.running else 0.0
    yield _gauge("ofa_computation_age_seconds", "Age of the running computation; 0 without one.", running)
    yield _gauge(
        "ofa_orphaned_inferences",
        "Cancelled computations still running.",
        activity.not_cancelling,
    )


def _readers(snapshot: Snapshot) -> Iterator[Metric]:
    reading = snapshot.reading
    processes = GaugeMetricFamily(
        "ofa_reader_processes",
        "Picture reader processes by state; stuck ones have survived SIGKILL.",
        labels=["state"],
    )
    for state in ("idle", "busy", "stuck"):
        processes.add_metric([state], getattr(reading, state))
    yield processes
    yield _gauge("ofa_pictures_waiting", "Pictures waiting for a reader process.", reading.waiting)


def _model(snapshot: Snapshot) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "ofa_model_info",
        "1; the labels name the loaded model, its device and its precision.",
        labels=["model", "device", "dtype"],
    )
    info.add_metric([snapshot.model, snapshot.device, snapshot.dtype], 1)
    yield info
    yield _gauge("ofa_fallback_active", "1 while in fallback mode on the CPU.", bool(snapshot.degraded))
    loading = GaugeMetricFamily(
        "ofa_model_load_duration_seconds",
        "Duration of loading, retries and pauses included; absent until loaded.",
    )
    if snapshot.ready_seconds is not None:
        loading.add_metric([], snapshot.ready_seconds)
    yield loading
    yield _counter("ofa_model_reloads", "Reloads after failing probes or damaged weights.", snapshot.reloads)


def _memory(resources: Resources, reserved: Callable[[], int]) -> Iterator[Metric]:
    yield _gauge(
        "ofa_memory_used_bytes",
        "Memory used, where it is limited: in the cgroup or the machine.",
        resources.memory.used,
    )
    yield _gauge(
        "ofa_memory_limit_bytes", "Memory limit of the cgroup or the machine.", resources.memory.total
    )
    yield _gauge(
        "ofa_disk_used_bytes",
        "Used bytes of the fuller disk: the run directory's or the temporary files'.",
        resources.disk.used,
    )
    yield _gauge("ofa_disk_size_bytes", "Size of that disk.", resources.disk.total)
    used = GaugeMetricFamily(
        "ofa_gpu_memory_used_bytes", "GPU memory used by all processes; absent without a GPU."
    )
    size = GaugeMetricFamily("ofa_gpu_memory_size_bytes", "Size of the GPU memory; absent without a GPU.")
    ours = GaugeMetricFamily("ofa_gpu_memory_reserved_bytes", "GPU memory reserved by this process.")
    if resources.gpu is not None:
        used.add_metric([], resources.gpu.used)
        size.add_metric([], resources.gpu.total)
        with suppress(Exception):  # a lost device must not fail the scrape
            ours.add_metric([], reserved())
    yield from (used, size, ours)
    age = max(0.0, time.monotonic() - resources.at)
    yield _gauge("ofa_resource_sample_age_seconds", "Age of the last sample of memory, disk and GPU.", age)


def _guard(counts: tuple[int, Mapping[str, int]] | None) -> Iterator[Metric]:
    judged, recomputed = counts or (0, {})
    yield _counter("ofa_precision_guard_judged", "Answers checked by the precision guard.", judged)
    again = CounterMetricFamily(
        "ofa_precision_guard_recomputed",
        "Answers recomputed in this number format because a faster one was too close to call.",
        labels=["format"],
    )
    for name, count in {"fp32": 0, **recomputed}.items():
        again.add_metric([name], count)
    yield again


def _connections(servers: Sequence[Connections]) -> Iterator[Metric]:
    open_now = GaugeMetricFamily("ofa_connections", "Open connections, by port.", labels=["port"])
    closed = CounterMetricFamily(
        "ofa_connections_closed",
        "Connections closed by the server: slow ones, idle ones at the cap, and new ones (refused).",
        labels=["port", "reason"],
    )
    exhausted = CounterMetricFamily(
        "ofa_descriptors_exhausted",
        "Connections not accepted because no file descriptor was left.",
        labels=["port"],
    )
    for server in servers:
        open_now.add_metric([server.name], server.count)
        exhausted.add_metric([server.name], server.exhausted)
        for reason in CLOSED:
            closed.add_metric([server.name, reason], server.dropped[reason])
    yield from (open_now, closed, exhausted)


def _restarts(path: Path) -> Metric:
    restarts = CounterMetricFamily(
        "ofa_restarts",
        "Restarts by the guardian, by cause, since the run directory was created.",
        labels=["cause"],
    )
    counts = read_restarts(path)
    for cause in RestartCause:
        restarts.add_metric([cause], counts.get(cause, 0))
    return restarts


def read_restarts(path: Path) -> dict[str, int]:
    """Return the guardian's count of restarts by cause. Damaged lines are skipped."""
    counts: dict[str, int] = {}
    with suppress(OSError, UnicodeDecodeError), path.open(encoding="ascii") as file:
        for line in file.read(4096).splitlines():
            cause, _, count = line.partition(" ")
            if count.isdigit() and len(count) < 10:
                known = cause if cause in set(RestartCause) else RestartCause.OTHER
                counts[known] = counts.get(known, 0) + int(count)
    return counts


def _build() -> Metric:
    build = GaugeMetricFamily(
        "ofa_build_info",
        "1; the labels are the versions of the packages that affect answers.",
        labels=["python", *PACKAGES],
    )
    build.add_metric([platform.python_version(), *(versions().get(name, "") for name in PACKAGES)], 1)
    return build


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=float(value))

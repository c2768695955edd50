"""What ``/metrics`` reads anew at each scrape, from evidence that others keep: nothing here samples."""

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
    """Where the figures come from. ``reserved`` tells the bytes of GPU memory this process has reserved;
    ``guard`` how many answers the precision guard has judged and how many of those it had
    computed again, None without a guard."""

    report: Callable[[], Report]
    snapshot: Callable[[], Snapshot]
    resources: Callable[[], Resources]
    lost_lines: Callable[[], int]
    restarts: Path
    reserved: Callable[[], int] = lambda: 0
    guard: Callable[[], tuple[int, int] | None] = lambda: None
    connections: Sequence[Connections] = ()


class Gauges(Collector):
    """A collector of prometheus_client's."""

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
        yield _build()


def _health(report: Report) -> Iterator[Metric]:
    checks = GaugeMetricFamily(
        "ofa_health_check_status",
        "1 for the word that /health says of a check now, 0 for its other words.",
        labels=["check", "status"],
    )
    for check, words in CHECKS.items():
        said = report.details[check].partition(":")[0]
        for word in words:
            checks.add_metric([check, word], float(word == said))
    yield checks
    yield _gauge("ofa_healthy", "1 while the model is loaded and its inference proven.", report.healthy)
    yield _gauge("ofa_ready", "1 while it should be sent traffic (/readyz).", report.ready.ok)
    yield _gauge("ofa_live", "1 unless only a restart helps (/livez).", report.live.ok)


def _evidence(snapshot: Snapshot) -> Iterator[Metric]:
    evidence = snapshot.evidence
    age = GaugeMetricFamily(
        "ofa_evidence_age_seconds", "Since the model was last seen to answer; absent before the first time."
    )
    success = GaugeMetricFamily(
        "ofa_last_success_timestamp_seconds",
        "When the model was last seen to answer, in Unix time; absent before the first time.",
    )
    if evidence.proven_at is not None:
        seconds = max(0.0, time.monotonic() - evidence.proven_at)
        age.add_metric([], seconds)
        success.add_metric([], round(time.time() - seconds, 3))
    yield age
    yield success


def _work(snapshot: Snapshot) -> Iterator[Metric]:
    activity = snapshot.activity
    yield _gauge("ofa_queue_depth_requests", "Requests that wait.", activity.depth)
    yield _gauge("ofa_queue_capacity_requests", "Requests that may wait.", activity.capacity)
    running = activity.running_for if activity.running else 0.0
    yield _gauge(
        "ofa_computation_age_seconds", "How long the computation under way has run; 0: none.", running
    )
    yield _gauge(
        "ofa_orphaned_inferences",
        "Computations that do not stop though nobody waits.",
        activity.not_cancelling,
    )


def _readers(snapshot: Snapshot) -> Iterator[Metric]:
    reading = snapshot.reading
    processes = GaugeMetricFamily(
        "ofa_reader_processes",
        "Processes that read pictures, by state; stuck: killed, and not ended since.",
        labels=["state"],
    )
    for state in ("idle", "busy", "stuck"):
        processes.add_metric([state], getattr(reading, state))
    yield processes
    yield _gauge("ofa_pictures_waiting", "Pictures that wait to be read.", reading.waiting)


def _model(snapshot: Snapshot) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "ofa_model_info",
        "1; the labels say what is loaded, and where and in which precision it computes.",
        labels=["model", "device", "dtype"],
    )
    info.add_metric([snapshot.model, snapshot.device, snapshot.dtype], 1)
    yield info
    yield _gauge(
        "ofa_fallback_active", "1 while it computes on the CPU in place of a GPU.", bool(snapshot.degraded)
    )
    loading = GaugeMetricFamily(
        "ofa_model_load_duration_seconds", "What loading took, all attempts and pauses; absent until loaded."
    )
    if snapshot.ready_seconds is not None:
        loading.add_metric([], snapshot.ready_seconds)
    yield loading
    yield _counter("ofa_model_reloads", "Reloads for probes that were wrong in a row.", snapshot.reloads)


def _memory(resources: Resources, reserved: Callable[[], int]) -> Iterator[Metric]:
    yield _gauge("ofa_memory_used_bytes", "Memory in use where it is limited.", resources.memory.used)
    yield _gauge(
        "ofa_memory_limit_bytes", "That limit: the cgroup's or the machine's.", resources.memory.total
    )
    yield _gauge(
        "ofa_disk_used_bytes",
        "Used on the disk with the logs, or with temporary files if that is fuller.",
        resources.disk.used,
    )
    yield _gauge("ofa_disk_size_bytes", "What there is of that disk.", resources.disk.total)
    used = GaugeMetricFamily(
        "ofa_gpu_memory_used_bytes", "GPU memory in use by all processes; absent without one."
    )
    size = GaugeMetricFamily("ofa_gpu_memory_size_bytes", "GPU memory there is; absent without one.")
    ours = GaugeMetricFamily("ofa_gpu_memory_reserved_bytes", "GPU memory reserved by this process.")
    if resources.gpu is not None:
        used.add_metric([], resources.gpu.used)
        size.add_metric([], resources.gpu.total)
        with suppress(Exception):  # a lost device must not cost the other figures
            ours.add_metric([], reserved())
    yield from (used, size, ours)
    age = max(0.0, time.monotonic() - resources.at)
    yield _gauge("ofa_resource_sample_age_seconds", "Since memory, disk and GPU were looked at.", age)


def _guard(counts: tuple[int, int] | None) -> Iterator[Metric]:
    judged, recomputed = counts or (0, 0)
    yield _counter("ofa_precision_guard_judged", "Answers that the precision guard looked at.", judged)
    yield _counter(
        "ofa_precision_guard_recomputed",
        "Answers too close to call in reduced precision, computed again in fp32.",
        recomputed,
    )


def _connections(servers: Sequence[Connections]) -> Iterator[Metric]:
    open_now = GaugeMetricFamily("ofa_connections", "Open connections, by port.", labels=["port"])
    closed = CounterMetricFamily(
        "ofa_connections_closed",
        "Connections closed by us: slow ones, idle ones to make room (cap), and new ones that had to go "
        "(refused).",
        labels=["port", "reason"],
    )
    exhausted = CounterMetricFamily(
        "ofa_descriptors_exhausted",
        "Connections that could not be accepted for lack of a file descriptor.",
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
        "ofa_restarts", "Restarts by the guardian, by cause, over the life of its folder.", labels=["cause"]
    )
    counts = read_restarts(path)
    for cause in RestartCause:
        restarts.add_metric([cause], counts.get(cause, 0))
    return restarts


def read_restarts(path: Path) -> dict[str, int]:
    """Restarts by cause, as the guardian has counted them. A damaged line counts nothing."""
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
        "1; the labels are the versions that decide an answer.",
        labels=["python", *PACKAGES],
    )
    build.add_metric([platform.python_version(), *(versions().get(name, "") for name in PACKAGES)], 1)
    return build


def _gauge(name: str, told: str, value: float) -> Metric:
    return GaugeMetricFamily(name, told, value=float(value))


def _counter(name: str, told: str, value: float) -> Metric:
    return CounterMetricFamily(name, told, value=float(value))

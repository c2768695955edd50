"""Derive the health report from a snapshot, a resource sample and the time: pure functions without I/O.

Slow is not dead: a full queue or a long inference affects readiness, never liveness. Liveness fails only if a
restart is needed: a dead engine thread, a computation stuck beyond the hang limit, a fatal error. Missing
picture readers affect readiness only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from service.contract.causes import Refusal
from service.contract.status import Phase, Remote, Snapshot
from service.health.resources import Resources, Use

LOADING_RETRY = 5.0  # seconds a client should wait while the model loads or inference is not proven


@dataclass(frozen=True, slots=True)
class Check:
    """A probe result: ``reason`` tells why not, ``retry_after`` is seconds (None: unknown)."""

    ok: bool
    reason: str = "ok"
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Report:
    """``details`` holds the contract's fields, ``more`` additional ones."""

    healthy: bool
    live: Check
    ready: Check
    startup: Check
    leaving: int | None  # the announced exit code
    details: Mapping[str, str]
    more: Mapping[str, object]
    timestamp: int

    def as_dict(self) -> dict[str, object]:
        """The body of ``/health``."""
        return {
            "status": "healthy" if self.healthy else "unhealthy",
            "details": dict(self.details),
            "timestamp": self.timestamp,
            "ready": self.ready.ok,
            "live": self.live.ok,
            "leaving": self.leaving,
            **self.more,
        }


def judge(
    snapshot: Snapshot,
    resources: Resources,
    *,
    now: float,
    unix: float,
    evidence_ttl: float,
    versions: Mapping[str, str] = MappingProxyType({}),
    log_lines_lost: int = 0,
    log_failing: str | None = None,
) -> Report:
    """The report at ``now`` (monotonic) and ``unix`` seconds; evidence over ``evidence_ttl`` is stale."""
    word = inference(snapshot, now, evidence_ttl)
    live = _live(snapshot)
    return Report(
        healthy=snapshot.phase is Phase.LOADED
        and (snapshot.remote is None or snapshot.remote.phase is Phase.LOADED)
        and word == "success"
        and live.ok,
        live=live,
        ready=_ready(snapshot, word),
        startup=_startup(snapshot),
        leaving=snapshot.fatal,
        details={
            "process": "healthy",
            "gpu": level(resources.gpu, warning=0.85, critical=0.95),
            "memory": level(resources.memory, warning=0.80, critical=0.90),
            "disk": level(resources.disk, warning=0.80, critical=0.90),
            "model": _model(snapshot),
            "inference": word,
        },
        more={
            "versions": dict(versions),
            "log_lines_lost": log_lines_lost,
            "log_failing": log_failing,
            **_more(snapshot, resources, now, unix),
        },
        timestamp=int(unix),
    )


def inference(snapshot: Snapshot, now: float, evidence_ttl: float) -> str:
    """Return the value of ``inference`` in ``details`` of /health."""
    evidence = snapshot.evidence
    if evidence.unstable:
        return "unstable"
    if (failure := evidence.standing_failure) is not None:
        return failure.word
    if evidence.proven_at is None:
        return "failed: not yet proven"
    return "stale" if now - evidence.proven_at > evidence_ttl else "success"


def queue_state(snapshot: Snapshot) -> str:
    """``idle``, ``busy``, ``full`` (refusing requests), ``stopping``, or ``wedged``: a cancelled computation
    does not stop, or the engine thread has died."""
    activity = snapshot.activity
    if snapshot.phase is Phase.STOPPING:
        return "stopping"
    if activity.not_cancelling or activity.hung or not activity.alive:
        return "wedged"
    if activity.full:
        return "full"
    return "busy" if activity.running or activity.depth else "idle"


def level(use: Use | None, *, warning: float, critical: float) -> str:
    """Return the value in ``details`` of /health for a resource's use."""
    if use is None:
        return "disabled"
    return "critical" if use.share > critical else "warning" if use.share > warning else "healthy"


def _model(snapshot: Snapshot) -> str:
    if snapshot.phase is Phase.STOPPING:
        return "loaded" if snapshot.ready_seconds is not None else "uninitialized"
    if snapshot.phase is Phase.LOADED and snapshot.remote is not None:
        return str(snapshot.remote.phase)
    return str(snapshot.phase)


def _live(snapshot: Snapshot) -> Check:
    activity = snapshot.activity
    if snapshot.phase is Phase.STOPPING:
        return Check(True, "stopping")
    if activity.hung:
        return Check(False, f"hung: a computation is stuck for {activity.running_for:.0f} s")
    if snapshot.fatal is not None:
        return Check(False, f"fatal: leaving with exit code {snapshot.fatal}")
    if not activity.alive:
        return Check(False, "the engine thread has died")
    return Check(True)


def _startup(snapshot: Snapshot) -> Check:
    if snapshot.phase is Phase.FAILED:
        return Check(False, "failed: the model could not be loaded")
    if snapshot.ready_seconds is None and snapshot.phase is not Phase.STOPPING:
        return Check(False, f"{snapshot.phase}: {_progress(snapshot)}", math.ceil(LOADING_RETRY))
    return Check(True)


def _ready(snapshot: Snapshot, inference_word: str) -> Check:
    """Whether the next request would be accepted; the reason is the refusal code."""
    activity = snapshot.activity
    retry = math.ceil(activity.retry_after)
    if snapshot.phase is Phase.STOPPING or snapshot.draining:
        return Check(False, Refusal.STOPPING)
    if not _live(snapshot).ok:
        return Check(False, _live(snapshot).reason)
    if snapshot.phase is Phase.FAILED:
        return Check(False, "failed")
    if snapshot.phase is not Phase.LOADED:
        return Check(False, Refusal.LOADING, math.ceil(LOADING_RETRY))
    if activity.refusal is not None:
        return Check(False, activity.refusal, retry)
    if inference_word != "success":
        return Check(False, inference_word, math.ceil(LOADING_RETRY))
    if not snapshot.reading.left:
        return Check(False, "readers: no picture reader is running", math.ceil(LOADING_RETRY))
    return Check(True)


def _progress(snapshot: Snapshot) -> str:
    """Text that changes with every step of loading, so that the guardian can tell slow from stuck."""
    progress = snapshot.progress
    done = f", {progress.done_bytes} of {progress.total_bytes} bytes" if progress.total_bytes else ""
    attempt = f", attempt {progress.attempt} of {progress.attempts}" if progress.attempts else ""
    return (progress.message or "not started") + done + attempt


def _more(snapshot: Snapshot, resources: Resources, now: float, unix: float) -> dict[str, object]:
    activity, evidence = snapshot.activity, snapshot.evidence
    return {
        "uptime_seconds": max(0, int(unix) - snapshot.started_unix),
        "model": {
            "name": snapshot.model,
            "device": snapshot.device,
            "dtype": snapshot.dtype,
            "degraded": snapshot.degraded,
            "loading": _progress(snapshot) if snapshot.phase is Phase.LOADING else None,
            "seconds_to_load": _rounded(snapshot.ready_seconds),
            "reloads": snapshot.reloads,
            "last_error": snapshot.last_error,
        },
        "evidence": {
            "age_seconds": _age(evidence.proven_at, now),
            "from": evidence.proven_by,
            "probe_age_seconds": _age(evidence.probe_at, now),
            "probe_seconds": _rounded(evidence.probe_seconds),
            "probe_running": evidence.probe_running,
            "probes": evidence.probes,
            "label": evidence.label,
            "unstable_in_a_row": evidence.unstable,
        },
        "queue": {
            "state": queue_state(snapshot),
            "waiting": activity.depth,
            "computing": activity.computing,
            "capacity": activity.capacity,
            "running_seconds": _rounded(activity.running_for) if activity.running else None,
            "progress_age_seconds": _rounded(activity.progress_age),
            "orphaned": activity.not_cancelling,
            "background": activity.background,
            "seconds_per_request": _rounded(activity.service_seconds),
            "totals": dict(activity.counts),
        },
        "readers": {name: getattr(snapshot.reading, name) for name in ("idle", "busy", "stuck", "waiting")},
        "remote": None if snapshot.remote is None else _remote(snapshot.remote),
        "figures": {
            "memory": _figures(resources.memory) | {"limit_by": resources.memory_by},
            "process_bytes": resources.process_memory,
            "threads": resources.threads,
            "cpu_seconds": _rounded(resources.cpu_seconds),
            "disk": _figures(resources.disk),
            "gpu": _figures(resources.gpu) | {"name": resources.gpu_name} if resources.gpu else None,
            "age_seconds": _age(resources.at, now),
        },
    }


def _remote(engine: Remote) -> dict[str, object]:
    return {"url": engine.url, "problem": engine.problem, "ready": engine.ready}


def _figures(use: Use) -> dict[str, object]:
    return {"used_bytes": use.used, "total_bytes": use.total, "used_percent": round(100 * use.share, 1)}


def _age(then: float | None, now: float) -> float | None:
    return None if then is None else _rounded(max(0.0, now - then))


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)

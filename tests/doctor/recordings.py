"""The faults whose logs are recorded, and what must show each: a metric, an alert, a finding."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.doctor import ways


@dataclass(frozen=True)
class Recording:
    """``names`` are the codes that the doctor must find, and no others. ``metric`` is a series that rises
    with the fault, in the last scrape before the process exited, or one of Prometheus itself; ``alert``
    depends on it."""

    name: str
    title: str
    names: tuple[str, ...]
    record: Callable[[Path], None]
    metric: str = ""
    alert: str = ""


LOADS = "ofa_model_load_attempts_total"
RESTARTS = "ofa_restarts_total"
COMPUTED = 'ofa_request_stage_duration_seconds_sum{stage="compute"}'
UP = "up"  # Prometheus' own: 0 if a scrape fails
RECORDINGS = (
    Recording("healthy", "no fault", (), ways.healthy),
    Recording(
        *("cut", "a download that is always interrupted", ("download-cut",), ways.cut),
        *(f'{LOADS}{{outcome="download_interrupted"}}', "OfaModelLoadFailing"),
    ),
    Recording(
        *("damaged", "a corrupt file from the hub", ("file-damaged",), ways.damaged),
        *(f'{LOADS}{{outcome="damaged_file"}}', "OfaModelLoadFailing"),
    ),
    Recording(
        *("wrong-id", "a model id that does not exist", ("model-not-found",), ways.wrong_id),
        *(f'{LOADS}{{outcome="model_not_found"}}', "OfaDown"),
    ),
    Recording(
        *("no-network", "an unreachable hub", ("hub-unreachable",), ways.no_network),
        *(f'{LOADS}{{outcome="hub_unavailable"}}', "OfaModelLoadFailing"),
    ),
    Recording(
        *("full-disk", "a disk too small for the model", ("disk-full",), ways.full_disk),
        *(f'{LOADS}{{outcome="disk_full"}}', "OfaModelLoadFailing"),
    ),
    Recording(
        *("no-gpu", "a requested GPU that does not exist", ("device-missing",), ways.no_gpu),
        *(f'{LOADS}{{outcome="missing_dependency"}}', "OfaDown"),
    ),
    Recording(
        *("fp16", "a precision that the device does not support", ("dtype-unsupported",), ways.fp16),
        *(f'{LOADS}{{outcome="unsupported_model"}}', "OfaDown"),
    ),
    Recording(
        *("drift", "comparable requests: 3 s at first, 21 s later", ("latency-drift",), ways.drift),
        *(COMPUTED, "OfaLatencyDrift"),
    ),
    Recording(
        *("creep", "a leak of 4 MiB per request", ("memory-creep",), ways.creep),
        *("process_resident_memory_bytes", "OfaMemoryCreep"),
    ),
    Recording(
        *("overload", "twelve users, a slow model, a queue of four", ("overload",), ways.overload),
        *('ofa_rejections_total{reason="queue_full"}', "OfaOverloaded"),
    ),
    Recording(
        *("long-texts", "a model that is slow on long texts", ("timeouts-long-text",), ways.long_texts),
        *('ofa_timeouts_total{stage="computing"}', "OfaTimeouts"),
    ),
    Recording(
        "large-pictures",
        "a machine that is slow on large pictures",
        ("timeouts-large-picture",),
        ways.large_pictures,
        *('ofa_timeouts_total{stage="waiting"}', "OfaTimeouts"),
    ),
    Recording("clock", "the clock set back by 15 minutes", ("clock-jump",), ways.clock),
    Recording("standstill", "the process stopped for 25 s", ("standstill",), ways.standstill, UP, "OfaDown"),
    Recording(
        *("gap", "a full disk under the logs", ("log-gap",), ways.gap),
        *("ofa_log_lines_lost_total", "OfaLogLinesLost"),
    ),
    Recording(
        *("oom", "temporarily no GPU memory", ("gpu-memory-full", "time-on-cpu"), ways.oom),
        *('ofa_out_of_memory_events_total{next="CPU"}', "OfaOutOfMemory"),
    ),
    Recording(
        *("host-memory", "temporarily no host memory", ("memory-full",), ways.memory),
        *('ofa_out_of_memory_events_total{next="none left"}', "OfaOutOfMemory"),
    ),
    Recording(
        *("nan", "NaN scores", ("scores-not-finite",), ways.nan),
        *('ofa_requests_total{outcome="error",source="api"}', "OfaErrorBudgetBurnFast"),
    ),
    Recording(
        *("unstable", "three wrong probe answers", ("probe-unstable",), ways.unstable),
        *('ofa_probes_total{outcome="unstable"}', "OfaUnstable"),
    ),
    Recording(
        *("kill", "kill -9", ("killed",), ways.signalled(signal.SIGKILL)),
        *(f'{RESTARTS}{{cause="signal"}}', "OfaRestarted"),
    ),
    Recording(
        *("stop", "SIGSTOP under a guardian", ("hung",), ways.signalled(signal.SIGSTOP)),
        *(f'{RESTARTS}{{cause="hung"}}', "OfaRestarted"),
    ),
    Recording(
        "gil",
        "a thread that holds the GIL",
        ("hung",),
        ways.ordered("gil"),
        *(f'{RESTARTS}{{cause="hung"}}', "OfaRestarted"),
    ),
    Recording(
        *("forward", "a forward pass that never returns", ("hung",), ways.ordered("stuck")),
        *(f'{RESTARTS}{{cause="hung"}}', "OfaRestarted"),
    ),
    Recording(
        *("term", "SIGTERM from outside", ("ended-from-outside",), ways.signalled(signal.SIGTERM)),
        *(f'{RESTARTS}{{cause="ended"}}', "OfaRestarted"),
    ),
    Recording(
        *("device-lost", "a device-side assert", ("device-lost",), ways.lost),
        *(f'{RESTARTS}{{cause="device_lost"}}', "OfaRestarted"),
    ),
    Recording(
        *("memory-limit", "a leak with --max-rss", ("memory-limit",), ways.limit),
        *(f'{RESTARTS}{{cause="memory_limit"}}', "OfaRestarted"),
    ),
    Recording(
        "loop",
        "a permanently unreachable hub, under a guardian",
        ("restart-loop", "gave-up", "hub-unreachable"),
        ways.loop,
        *(f'{RESTARTS}{{cause="failed"}}', "OfaRestartLoop"),
    ),
    Recording(
        *("halted", "a wrong model id, under a guardian", ("halted", "model-not-found"), ways.halted),
        *(UP, "OfaDown"),
    ),
    Recording(
        *("stranger", "another process on the health port", ("port-taken", "killed"), ways.stranger),
        *(f'{RESTARTS}{{cause="port_taken"}}', "OfaDown"),
    ),
    Recording(
        *("second", "two instances on one port", ("two-instances", "gave-up"), ways.second),
        *(f'{RESTARTS}{{cause="port_taken"}}', "OfaRestarted"),
    ),
    Recording("silent", "killed without a guardian", ("died-silently",), ways.silent, UP, "OfaDown"),
)

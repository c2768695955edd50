"""Problems that a single log line shows: the pattern that shows each, and the pattern that resolves it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from doctor.findings import Finding, found
from doctor.reading import Line, Records
from service.contract.causes import GuardianEvent, RestartCause

_LOAD: Final = r"(MODEL_ATTEMPT_FAILED|MODEL_NOT_LOADED) \| .*ERROR="
_LOADED: Final = r"MODEL_LOADED \|"
_RECOVERED: Final = f"CAUSE=({GuardianEvent.HEALTHY}|{GuardianEvent.RECOVERED}) "


@dataclass(frozen=True, slots=True)
class Pattern:
    """Problem ``code`` is shown by a line of ``log`` that matches ``shows`` and does not contain ``unless``,
    and resolved by a later one that matches ``resolves``."""

    code: str
    log: str
    shows: str
    resolves: str = ""
    unless: str = ""


def _restarted(code: str, cause: RestartCause | GuardianEvent, fields: str = "") -> Pattern:
    """The guardian logged ``cause``, followed by ``fields``."""
    return Pattern(code, "restarts", f"CAUSE={cause} {fields}", _RECOVERED)


def _refused(code: str, error_code: str) -> Pattern:
    """The process refused to start and printed ``error_code`` at the end of its message."""
    return Pattern(code, "console", rf"(web_app|health_api)\.py: .* \({error_code}\)$")


PATTERNS: Final = (
    Pattern("download-cut", "app", _LOAD + "DownloadInterrupted", _LOADED),
    Pattern("hub-unreachable", "app", _LOAD + "HubUnavailable", _LOADED),
    Pattern("disk-full", "app", _LOAD + "DiskFull", _LOADED),
    Pattern("file-damaged", "app", _LOAD + "Damaged(File|Folder)|FILES_DAMAGED", _LOADED),
    Pattern("model-not-found", "app", _LOAD + "ModelNotFound", _LOADED),
    Pattern("device-missing", "app", _LOAD + r"MissingDependency \| MSG=--device", _LOADED),
    Pattern("dependency-missing", "app", _LOAD + "MissingDependency", _LOADED, unless="MSG=--device"),
    Pattern("dtype-unsupported", "app", _LOAD + r"UnsupportedModel \| MSG=--dtype", _LOADED),
    Pattern("model-unsupported", "app", _LOAD + "UnsupportedModel", _LOADED, unless="MSG=--dtype"),
    Pattern("load-failed", "app", _LOAD + "(TransientLoadError|PermanentLoadError)", _LOADED),
    Pattern("gpu-memory-full", "app", r"MEMORY \| RUNG=.* \| DEVICE=cuda", r"PROMOTED \|"),
    Pattern("memory-full", "app", r"MEMORY \| RUNG=none left \| DEVICE=cpu", r"REQUEST_END \|"),
    Pattern("memory-full", "app", r"REQUEST_ERROR \| .*ERROR=OutOfMemory.* \| AHEAD=", r"REQUEST_END \|"),
    Pattern("memory-limit", "app", r"RESTART_NEEDED \| ERROR=MemoryLimitReached", _LOADED),
    _restarted("memory-limit", RestartCause.MEMORY_LIMIT),
    _restarted("oom-killed", RestartCause.OOM_KILLED),
    Pattern("device-lost", "app", r"RESTART_NEEDED \| ERROR=DeviceLost", _LOADED),
    _restarted("device-lost", RestartCause.DEVICE_LOST),
    Pattern(
        "scores-not-finite",
        "app",
        r"REQUEST_ERROR \| .*ERROR=NotFinite.*SOURCE=(page|api)",
        r"REQUEST_END \|",
    ),
    Pattern("probe-unstable", "app", r"PROBE \| OUTCOME=unstable|RELOADING \|", r"PROBE \| OUTCOME=success"),
    Pattern("reader-stuck", "app", r"READER_STUCK \|", r"READER_ENDED \|"),
    Pattern("reader-stuck", "app", r"READER_NOT_STARTED \|", r"READER_STARTED"),
    Pattern("hung", "app", r"HUNG \| ", _LOADED),
    _restarted("hung", RestartCause.HUNG),
    _restarted("killed", RestartCause.SIGNAL, "SIGNAL=(9|15) "),
    _restarted("crashed", RestartCause.SIGNAL, "SIGNAL=(4|6|7|8|11) "),
    _restarted("ended-from-outside", RestartCause.ENDED),
    _restarted("unhealthy", RestartCause.UNHEALTHY),
    _restarted("start-stuck", RestartCause.START_TIMEOUT),
    _restarted("start-stuck", RestartCause.START_STALLED),
    _restarted("gave-up", GuardianEvent.GAVE_UP),
    _restarted("halted", GuardianEvent.HALTED),
    _restarted("undead", GuardianEvent.UNDEAD),
    _restarted("guardian-ended", GuardianEvent.GUARDIAN_ENDED),
    Pattern("two-instances", "restarts", r"CAUSE=\w+ HOLDER=instance ", _RECOVERED),
    Pattern("port-taken", "restarts", r"CAUSE=\w+ HOLDER=other ", _RECOVERED),
    _refused("port-taken", "port_taken"),
    _refused("two-instances", "run_dir_taken"),
    _refused("setting-refused", "settings"),
    _refused("api-keys-refused", "api_keys"),
    Pattern("api-keys-outdated", "app", r"API_KEYS \| OUTCOME=kept_old", r"API_KEYS \| OUTCOME=loaded"),
    _refused("setting-refused", "engine_key"),
    Pattern("engine-unusable", "app", r"ENGINE_UNUSABLE \|", r"ENGINE_REACHED \|"),
    Pattern("engine-answers", "app", r"ENGINE_ANSWER \|"),
    Pattern("engine-key-outdated", "app", r"ENGINE_KEY \| OUTCOME=kept_old", r"ENGINE_KEY \| OUTCOME=loaded"),
    _refused("run-dir-unwritable", "run_dir_unwritable"),
    Pattern("converted-not-kept", "app", r"CONVERTED_WEIGHTS_NOT_KEPT \|", r"SETTLED \|"),
    # A load logs this after MODEL_LOADED: the next one without it has resolved it.
    Pattern("calibration-ignored", "app", r"CALIBRATION \| OUTCOME=ignored \|", _LOADED),
    Pattern("uploads-no-room", "app", r"UPLOAD_REFUSED \| REASON=no_room "),
    Pattern("batches-off", "app", r"BATCHES_OFF \|", r"BATCHES_ON \|"),
    Pattern("batches-paused", "app", r"BATCHES_PAUSED \|", r"BATCHES_(RESUMED|ON)"),
    Pattern("batches-moved-aside", "app", r"BATCHES_(MOVED_ASIDE|LOST) \|"),
    Pattern("batch-row-crashed", "app", r"BATCH_ROW_CRASHED \|"),
    Pattern("descriptors-exhausted", "app", r"DESCRIPTORS \|"),
    Pattern("log-moved", "app", r"LOG_REOPENED \|"),
    Pattern("unforeseen", "app", r"BROKEN \|"),
)


def check(records: Records) -> Iterator[Finding]:
    """Yield one finding per problem, with all lines that show it, from all logs."""
    logs = {"app": records.app, "restarts": records.restarts, "console": records.console}
    shown: dict[str, list[Line]] = {}
    resolved: dict[str, bool] = {}
    for pattern in PATTERNS:
        lines, ended = _matches(pattern, logs[pattern.log])
        if lines:
            shown.setdefault(pattern.code, []).extend(lines)
            resolved[pattern.code] = resolved.get(pattern.code, True) and ended
    for code, lines in shown.items():
        yield found(code, sorted(lines, key=lambda line: line.at), resolved=resolved[code])


def _matches(pattern: Pattern, log: list[Line]) -> tuple[list[Line], bool]:
    """Return the lines that show the problem, and whether a line after the last of them resolves it."""
    shows, unless = re.compile(pattern.shows), re.compile(pattern.unless)
    resolves = re.compile(pattern.resolves) if pattern.resolves else None
    lines: list[Line] = []
    resolved = False
    for line in log:
        if shows.match(line.message) and not (pattern.unless and unless.search(line.message)):
            lines.append(line)
            resolved = False
        elif resolves is not None and resolves.match(line.message):
            resolved = True
    return lines, resolved

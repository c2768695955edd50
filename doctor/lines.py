"""Ailments that a line shows by itself: which, in which log, and which later line says that it is over."""

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
_BACK: Final = r"CAUSE=(healthy|recovered) "


@dataclass(frozen=True, slots=True)
class Shown:
    """``code`` is found where a line of ``log`` matches ``by`` and not ``but``; a later one that matches
    ``over`` ends it."""

    code: str
    log: str
    by: str
    over: str = ""
    but: str = ""


def _restarted(code: str, cause: RestartCause | GuardianEvent, facts: str = "") -> Shown:
    """Found where the guardian names ``cause``, with ``facts`` behind it."""
    return Shown(code, "restarts", f"CAUSE={cause} {facts}", _BACK)


def _refused(code: str, cause: str) -> Shown:
    """Found where a process refused to start, with ``cause`` as the code behind its words."""
    return Shown(code, "console", rf"(web_app|health_api)\.py: .* \({cause}\)$")


PATTERNS: Final = (
    Shown("download-cut", "app", _LOAD + "DownloadInterrupted", _LOADED),
    Shown("hub-unreachable", "app", _LOAD + "HubUnavailable", _LOADED),
    Shown("disk-full", "app", _LOAD + "DiskFull", _LOADED),
    Shown("file-damaged", "app", _LOAD + "Damaged(File|Folder)|FILES_DAMAGED", _LOADED),
    Shown("model-not-found", "app", _LOAD + "ModelNotFound", _LOADED),
    Shown("device-missing", "app", _LOAD + r"MissingDependency \| MSG=--device", _LOADED),
    Shown("dependency-missing", "app", _LOAD + "MissingDependency", _LOADED, but="MSG=--device"),
    Shown("dtype-unsupported", "app", _LOAD + r"UnsupportedModel \| MSG=--dtype", _LOADED),
    Shown("model-unsupported", "app", _LOAD + "UnsupportedModel", _LOADED, but="MSG=--dtype"),
    Shown("load-failed", "app", _LOAD + "(TransientLoadError|PermanentLoadError)", _LOADED),
    Shown("gpu-memory-full", "app", r"MEMORY \| RUNG=.* \| DEVICE=cuda", r"PROMOTED \|"),
    Shown("memory-full", "app", r"MEMORY \| RUNG=none left \| DEVICE=cpu", r"REQUEST_END \|"),
    Shown("memory-full", "app", r"REQUEST_ERROR \| .*ERROR=OutOfMemory.* \| AHEAD=", r"REQUEST_END \|"),
    Shown("memory-limit", "app", r"RESTART_NEEDED \| ERROR=MemoryLimitReached", _LOADED),
    _restarted("memory-limit", RestartCause.MEMORY_LIMIT),
    _restarted("oom-killed", RestartCause.OOM_KILLED),
    Shown("device-lost", "app", r"RESTART_NEEDED \| ERROR=DeviceLost", _LOADED),
    _restarted("device-lost", RestartCause.DEVICE_LOST),
    Shown(
        "scores-not-finite",
        "app",
        r"REQUEST_ERROR \| .*ERROR=NotFinite.*SOURCE=(page|api)",
        r"REQUEST_END \|",
    ),
    Shown("probe-unstable", "app", r"PROBE \| OUTCOME=unstable|RELOADING \|", r"PROBE \| OUTCOME=success"),
    Shown("reader-stuck", "app", r"READER_STUCK \|", r"READER_ENDED \|"),
    Shown("reader-stuck", "app", r"READER_NOT_STARTED \|", r"READER_STARTED"),
    Shown("hung", "app", r"HUNG \| ", _LOADED),
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
    Shown("two-instances", "restarts", r"CAUSE=\w+ HOLDER=instance ", _BACK),
    Shown("port-taken", "restarts", r"CAUSE=\w+ HOLDER=other ", _BACK),
    _refused("port-taken", "port_taken"),
    _refused("two-instances", "run_dir_taken"),
    _refused("setting-refused", "settings"),
    _refused("run-dir-unwritable", "run_dir_unwritable"),
    Shown("converted-not-kept", "app", r"CONVERTED_WEIGHTS_NOT_KEPT \|", r"SETTLED \|"),
    Shown("uploads-no-room", "app", r"UPLOAD_REFUSED \| REASON=no_room "),
    Shown("descriptors-exhausted", "app", r"DESCRIPTORS \|"),
    Shown("log-moved", "app", r"LOG_REOPENED \|"),
    Shown("unforeseen", "app", r"BROKEN \|"),
)


def look(records: Records) -> Iterator[Finding]:
    """A finding for each code that lines show: all of its lines, whichever log they are from."""
    logs = {"app": records.app, "restarts": records.restarts, "console": records.console}
    shown: dict[str, list[Line]] = {}
    over: dict[str, bool] = {}
    for pattern in PATTERNS:
        lines, ended = _matches(pattern, logs[pattern.log])
        if lines:
            shown.setdefault(pattern.code, []).extend(lines)
            over[pattern.code] = over.get(pattern.code, True) and ended
    for code, lines in shown.items():
        yield found(code, sorted(lines, key=lambda line: line.at), over=over[code])


def _matches(pattern: Shown, log: list[Line]) -> tuple[list[Line], bool]:
    """The lines that show it, and whether one after the last of them says that it is over."""
    by, but = re.compile(pattern.by), re.compile(pattern.but)
    over = re.compile(pattern.over) if pattern.over else None
    lines: list[Line] = []
    ended = False
    for line in log:
        if by.match(line.message) and not (pattern.but and but.search(line.message)):
            lines.append(line)
            ended = False
        elif over is not None and over.match(line.message):
            ended = True
    return lines, ended

"""A finding: a known problem, with the log lines that show it. The texts are in ``text/*.json``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

from doctor.reading import Line
from service.texts import Language, load_texts

Severity = Literal["critical", "warning", "info"]
SHOWN: Final = 4  # lines of evidence per finding: the first and the last ones
TEXTS: Final = Path(__file__).parent / "text"
PROBLEMS: Final = load_texts(TEXTS, "problems")

_CODES: Final[Mapping[Severity, tuple[str, ...]]] = {
    "critical": (
        *("download-cut", "hub-unreachable", "disk-full", "file-damaged", "model-not-found"),
        *("device-missing", "dependency-missing", "dtype-unsupported", "model-unsupported", "load-failed"),
        *("memory-full", "oom-killed", "device-lost", "scores-not-finite", "probe-unstable"),
        *("hung", "crashed", "unhealthy", "start-stuck", "restart-loop", "gave-up", "halted", "undead"),
        *("guardian-ended", "port-taken", "two-instances", "setting-refused", "run-dir-unwritable"),
        *("api-keys-refused", "engine-unusable", "not-answering", "unhealthy-now"),
    ),
    "warning": (
        *("latency-drift", "timeouts-long-text", "timeouts-large-picture", "overload"),
        *("clock-jump", "standstill", "memory-creep", "gpu-memory-full", "time-on-cpu", "memory-limit"),
        *("orphaned", "reader-stuck", "killed", "ended-from-outside", "died-silently"),
        *("log-gap", "uploads-no-room", "descriptors-exhausted", "api-keys-outdated", "unforeseen"),
        *("batches-off", "batches-paused", "batches-moved-aside", "batch-row-crashed"),
        *("engine-answers", "engine-key-outdated"),
        *("degraded-now", "resources-short", "log-failing", "calibration-ignored"),
    ),
    "info": ("caller-limit", "converted-not-kept", "log-moved"),
}
#: Every problem the doctor knows, worst first.
SEVERITIES: Final[Mapping[str, Severity]] = {
    code: severity for severity, codes in _CODES.items() for code in codes
}


class Text(NamedTuple):
    """A finding in one language: a title of a few words, the diagnosis in a sentence or two, and the fix."""

    title: str
    diagnosis: str
    fix: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem found in the logs. ``resolved`` says that later lines show its end. ``since`` and ``until``
    are local times as in the logs, "" where the lines have none. ``evidence`` quotes the logs. ``facts`` fill
    the placeholders of the text. ``requests`` are the ids of requests in the evidence."""

    code: str
    severity: Severity
    evidence: tuple[str, ...]
    count: int
    since: str
    until: str
    resolved: bool
    facts: Mapping[str, object]
    requests: tuple[Mapping[str, str], ...] = ()

    def text(self, language: Language = "en") -> Text:
        """Return what is wrong and how to fix it."""
        return Text(
            *(PROBLEMS[language][f"{self.code}.{part}"].format(**self.facts) for part in Text._fields)
        )

    def as_dict(self, language: Language = "en") -> dict[str, object]:
        """Return the finding for programs; only title, diagnosis and fix depend on the language."""
        return {
            "code": self.code,
            "severity": self.severity,
            **self.text(language)._asdict(),
            **{
                name: getattr(self, name)
                for name in ("evidence", "requests", "count", "since", "until", "resolved")
            },
        }


def found(
    code: str, lines: Sequence[Line], *, resolved: bool = False, quotes: Iterable[str] = (), **facts: object
) -> Finding:
    """Return a finding shown by ``lines``, in order of time, and by ``quotes``, which come from no log. A
    resolved problem is a warning at most."""
    severity = SEVERITIES[code]
    shown = lines if len(lines) <= SHOWN else [lines[0], *lines[1 - SHOWN :]]
    times = [line.at for line in lines if line.at]
    return Finding(
        code,
        "warning" if resolved and severity == "critical" else severity,
        (*map(str, shown), *quotes),
        max(1, len(lines)),
        _when(min(times, default=0.0)),
        _when(max(times, default=0.0)),
        resolved,
        {"count": len(lines), **facts},
        tuple(ids for line in shown if (ids := line.correlation)),
    )


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings worst first, and the newest first among equals."""
    newest = sorted(findings, key=lambda one: one.until, reverse=True)
    return sorted(newest, key=lambda one: list(_CODES).index(one.severity))


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) if at else ""

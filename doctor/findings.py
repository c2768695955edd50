"""A finding: an ailment in the logs, with the lines that show it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from doctor.chinese import CHINESE, Words
from doctor.english import AILMENTS, Severity
from doctor.reading import Line

Language = Literal["en", "zh"]
SHOWN: Final = 4  # lines of evidence a finding shows: its first, and its last ones


@dataclass(frozen=True, slots=True)
class Finding:
    """One ailment, found; its words are in English, and in ``chinese``. ``over`` says that it has passed by
    itself or was mended since; ``since`` and ``until`` are local times as the logs write them, "" where lines
    carry none. ``evidence`` is as it stands in the logs."""

    code: str
    severity: Severity
    title: str
    diagnosis: str
    cure: str
    evidence: tuple[str, ...]
    count: int
    since: str
    until: str
    over: bool
    chinese: Words

    def told(self, language: Language) -> Words:
        """What is wrong and what to do, in words."""
        return self.chinese if language == "zh" else Words(self.title, self.diagnosis, self.cure)

    def as_dict(self, language: Language = "en") -> dict[str, object]:
        """For programs; what does not depend on the language goes by ``code``."""
        return {
            "code": self.code,
            "severity": self.severity,
            **self.told(language)._asdict(),
            **{name: getattr(self, name) for name in ("evidence", "count", "since", "until", "over")},
        }


_RANK: Final[Mapping[Severity, int]] = {"critical": 0, "warning": 1, "info": 2}


def found(
    code: str, lines: Sequence[Line], *, over: bool = False, told: Iterable[str] = (), **facts: object
) -> Finding:
    """A finding of ``code`` shown by ``lines`` in order of time; what is over is no longer critical."""
    ailment, chinese = AILMENTS[code], CHINESE[code]
    facts = {"count": len(lines), **facts}
    severity: Severity = "warning" if over and ailment.severity == "critical" else ailment.severity
    shown = lines if len(lines) <= SHOWN else [lines[0], *lines[1 - SHOWN :]]
    timed = [line.at for line in lines if line.at]
    return Finding(
        code,
        severity,
        ailment.title,
        ailment.diagnosis.format(**facts),
        ailment.cure,
        (*(str(line) for line in shown), *told),
        max(1, len(lines)),
        _when(min(timed, default=0.0)),
        _when(max(timed, default=0.0)),
        over,
        chinese._replace(diagnosis=chinese.diagnosis.format(**facts)),
    )


def in_order(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, and of these the newest."""
    newest = sorted(findings, key=lambda one: one.until, reverse=True)
    return sorted(newest, key=lambda one: _RANK[one.severity])


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at)) if at else ""

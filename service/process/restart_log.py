"""Read restarts and their causes from the end of the guardian's restart.log.

The file may be missing, truncated within a line, or rotated while it is read. Unreadable lines are skipped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from service.contract.causes import GuardianEvent, RestartCause

RESTART_LOG: Final = "restart.log"
TAIL_BYTES: Final = 65_536  # of each file: about a hundred restarts with their log excerpts
KEPT: Final = 20
_LINE: Final = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) \[(ALERT|FATAL|SUCCESS)\] CAUSE=([a-z_]+) (?:[A-Z]+=\S* )*(.*)"
)
KINDS: Final = (*RestartCause, *GuardianEvent)

Level = Literal["ALERT", "FATAL", "SUCCESS"]


@dataclass(frozen=True, slots=True)
class Restart:
    """One line of restart.log; ``when`` is local time."""

    when: str
    level: Level
    cause: str
    text: str

    @property
    def kind(self) -> RestartCause | GuardianEvent:
        """The cause as a code; OTHER if this version does not know it."""
        return next((known for known in KINDS if known == self.cause), RestartCause.OTHER)


def read(run_dir: Path, keep: int = KEPT) -> list[Restart]:
    """Return the last ``keep`` ALERT, FATAL and SUCCESS lines, newest first."""
    found: list[Restart] = []
    for name in (RESTART_LOG, f"{RESTART_LOG}.1"):  # the rotated file is older
        found += reversed(_parsed(_tail(run_dir / name)))
        if len(found) >= keep:
            break
    return found[:keep]


def _parsed(text: str) -> list[Restart]:
    lines = (_LINE.fullmatch(line) for line in text.splitlines())
    return [Restart(*line.groups()) for line in lines if line]  # type: ignore[arg-type]  # by _LINE


def _tail(path: Path) -> str:
    """The complete lines in the last TAIL_BYTES; empty if the file cannot be read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - TAIL_BYTES))
            data = file.read(TAIL_BYTES)
    except OSError:
        return ""
    if size > TAIL_BYTES:
        data = data.partition(b"\n")[2]
    return data.decode("utf-8", errors="replace")

"""What the guardian wrote down: restarts and their causes, read from the end of restart.log.

The file is another program's and may be missing, cut in the middle of a line, or rotated while it is read.
What cannot be read is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from service.contract.causes import GuardianEvent, RestartCause

RESTART_LOG: Final = "restart.log"
TAIL_BYTES: Final = 65_536  # of each file: some hundred restarts, with the log lines below them
KEPT: Final = 20
_LINE: Final = re.compile(
    r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) \[(ALERT|FATAL|SUCCESS)\] CAUSE=([a-z_]+) (?:[A-Z]+=\S* )*(.*)"
)
KINDS: Final = (*RestartCause, *GuardianEvent)

Level = Literal["ALERT", "FATAL", "SUCCESS"]


@dataclass(frozen=True, slots=True)
class Restart:
    """One line of the guardian's: when, by the machine's local time, and what."""

    when: str
    level: Level
    cause: str
    text: str

    @property
    def kind(self) -> RestartCause | GuardianEvent:
        """What it is about; OTHER for a code that this version does not know."""
        return next((known for known in KINDS if known == self.cause), RestartCause.OTHER)


def read(run_dir: Path, keep: int = KEPT) -> list[Restart]:
    """The last ``keep`` lines of the guardian's that are news, newest first."""
    found: list[Restart] = []
    for name in (RESTART_LOG, f"{RESTART_LOG}.1"):  # the rotated one holds the time before
        found += reversed(_parsed(_tail(run_dir / name)))
        if len(found) >= keep:
            break
    return found[:keep]


def _parsed(text: str) -> list[Restart]:
    lines = (_LINE.fullmatch(line) for line in text.splitlines())
    return [Restart(*line.groups()) for line in lines if line]  # type: ignore[arg-type]  # by _LINE


def _tail(path: Path) -> str:
    """The last TAIL_BYTES, from the beginning of a line on; nothing if it cannot be read."""
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

"""What the guardian wrote down: restarts and their causes, read from the end of restart.log.

The file is another program's and may be missing, cut in the middle of a line, or rotated while it is read.
What cannot be read is left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

RESTART_LOG: Final = "restart.log"
TAIL_BYTES: Final = 65_536  # of each file: some hundred restarts, with the log lines below them
KEPT: Final = 20
_LINE: Final = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) \[(ALERT|FATAL|SUCCESS)\] (.*)")
#: What a line is about and how it is told from others, in this order. The causes of restarts are those that
#: the guardian counts (count_restart in guardian/journal.sh), the rest is what else it has to say.
KINDS: Final = (
    ("recovered", r"recovered: "),
    ("healthy", r"healthy .* after its start"),
    ("guardian_ended", r"the guardian ended by itself"),
    ("gave_up", r"gave up after "),
    ("halted", r"halted, as no restart mends this"),
    ("not_leaving", r"process \d+ did not end within .* of TERM"),
    ("undead", r"process \d+ cannot be killed"),
    ("leftovers", r"\d+ process\(es\) left in the group"),
    ("asked", r"restarting process \d+, as asked"),
    ("port_taken", r".*\bport \d+ is taken by "),
    ("oom_killed", r".*by the kernel's OOM killer"),
    ("signal", r".* killed by signal "),
    ("hung", r".*( is hung: |\(exit code 70\))"),
    ("device_lost", r".*\(exit code 71\)"),
    ("memory_limit", r".*\(exit code 75\)"),
    ("failed", r".*\(exit code 1: "),
    ("ended", r".*\(exit code 0\)"),
    ("unhealthy", r".* is unhealthy for "),
    ("start_timeout", r".* did not start up within "),
    ("start_stalled", r".* made no progress in starting up "),
    ("other", r""),
)

Level = Literal["ALERT", "FATAL", "SUCCESS"]


@dataclass(frozen=True, slots=True)
class Restart:
    """One line of the guardian's: when, by the machine's local time, and what."""

    when: str
    level: Level
    text: str

    @property
    def kind(self) -> str:
        """What it is about, in a word of KINDS; of a restart, its cause."""
        head = self.text.partition("; it ran ")[0]  # what follows quotes the last answer
        return next(name for name, by in KINDS if re.match(by, head))


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
    return [Restart(line[1], line[2], line[3]) for line in lines if line]  # type: ignore[arg-type]  # by _LINE


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

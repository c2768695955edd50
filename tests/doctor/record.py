"""Records the logs that the doctor is tested with: python -m tests.doctor.record [NAME…]

Each fault is injected into a real process; its logs are kept in tests/doctor/logs/NAME, with the folders of
this machine replaced. All of them take about half an hour, and the small disks need root.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import traceback
from pathlib import Path

from lab.instances.instance import ROOT
from tests.doctor.recordings import RECORDINGS, Recording

LOGS = Path(__file__).resolve().parent / "logs"
KEPT = (
    *("web_app.log", "slow_requests.log", "restart.log", "console.log", "last_exit.json"),
    *("restart_counts", "metrics.txt"),
)
CONSOLE_LINES = 30  # the rest repeats web_app.log


def record(recording: Recording) -> None:
    with tempfile.TemporaryDirectory(prefix="recording-") as folder:
        run_dir = Path(folder) / "run"
        run_dir.mkdir()
        recording.record(run_dir)
        kept = LOGS / recording.name
        shutil.rmtree(kept, ignore_errors=True)
        kept.mkdir(parents=True)
        for path in sorted(run_dir.iterdir()):
            if path.name in KEPT or path.name.startswith("postmortem-"):
                (kept / path.name).write_text(_plain(path, run_dir), encoding="utf-8")


def _plain(path: Path, run_dir: Path) -> str:
    text = path.read_text(encoding="utf-8", errors="replace")
    for ours, neutral in (
        (str(run_dir), "/var/lib/entailment"),
        (str(ROOT), "/srv/entailment"),
        (sys.prefix, "/srv/entailment/.venv"),
        (sys.base_prefix, "/usr"),
    ):
        text = text.replace(ours, neutral)
    lines = text.splitlines(keepends=True)
    if path.name == "console.log":
        lines = lines[-CONSOLE_LINES:]
    if path.name == "metrics.txt":  # only counters that rose
        lines = [line for line in lines if not line.startswith("#") and not line.endswith(" 0.0\n")]
        lines = [line for line in lines if "_bucket{" not in line and "build_info" not in line]
    return "".join(lines)


def main(names: list[str]) -> int:
    failed = []
    for recording in RECORDINGS:
        if names and recording.name not in names:
            continue
        print(recording.name, flush=True)
        try:
            record(recording)
        except Exception:
            traceback.print_exc()
            failed.append(recording.name)
    print("not recorded:", ", ".join(failed) or "none")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

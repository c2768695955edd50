"""``python -m lab.faults.report``: inject each fault into a real instance and record the outcome.

    python -m lab.faults.report                    all faults, under guardian.sh
    python -m lab.faults.report --naive            some faults, under the naive watchdog (naive.sh)
    python -m lab.faults.report --soak 30          30 minutes of overload under guardian.sh
    python -m lab.faults.report --only kill,stop   these faults; recorded only with --write

Rows are printed as they are measured. docs/faults.json keeps the measurements, from which the tables of
docs/fault-measurements.md are made. Exit status 1 if a requirement was violated; failures of the naive
watchdog do not count.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lab.faults import machine, tables
from lab.faults.catalogue import FAULTS
from lab.faults.fault import Fault
from lab.faults.scenes import Missing
from lab.faults.service import Service
from lab.faults.soak import as_markdown, soak
from lab.instances import reaper

TIMES = 5.0  # overload of a soak, as a multiple of the capacity


def main(argv: Sequence[str]) -> int:
    options = _options(argv)
    keeper = reaper.watch()  # kills the instances if this process is killed
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return _soak(options) if options.soak else _faults(options)
    finally:
        assert keeper.stdin is not None
        keeper.stdin.close()
        keeper.wait(10)


def _faults(options: argparse.Namespace) -> int:
    names = (
        options.only.split(",") if options.only else [f.name for f in FAULTS if f.naive or not options.naive]
    )
    rows: dict[str, dict[str, Any]] = {}
    began, busy = time.monotonic(), machine.Busy()
    print(machine.described() + "\n\n" + tables.HEAD, flush=True)
    for fault in (fault for fault in FAULTS if fault.name in names):
        busy.sample()
        rows[fault.name] = _measured(fault, options.naive)
        print(tables.row(fault.title, rows[fault.name]), flush=True)
    conditions = {
        "machine": machine.described(),
        "others": busy.summary(),
        "minutes": round((time.monotonic() - began) / 60, 1),
    }
    print(f"\n{conditions['others']} {conditions['minutes']} minutes in all.")
    if options.write or not options.only:
        kept = tables.load()
        watchdog = "naive" if options.naive else "guardian"
        before = kept.get(watchdog, {}).get("rows", {}) if options.only else {}
        kept[watchdog] = {**conditions, "rows": {**before, **rows}}
        tables.save(kept)
    return int(not options.naive and any(row.get("wrong") for row in rows.values()))


def _measured(fault: Fault, naive: bool) -> dict[str, Any]:
    """Return a row: the result's fields, or only ``skipped`` with the reason, or only ``wrong``."""
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        try:
            return asdict(fault.measure(Path(folder), naive=naive))
        except Missing as missing:
            return {"skipped": str(missing)}
        except AssertionError as error:
            print(error, file=sys.stderr)
            return {"wrong": [str(error).splitlines()[0] if str(error) else "failed"]}


def _soak(options: argparse.Namespace) -> int:
    folder = Path(options.keep) if options.keep else Path(tempfile.mkdtemp(prefix="soak-"))
    print(f"{machine.described()} Logs: {folder}", flush=True)
    with Service(folder / "run", "--model", "demo", plain=True) as service:
        figures = soak(service, options.soak, TIMES)
        stopped = service.command("stop").returncode
    print(as_markdown(figures), flush=True)
    if options.write or options.soak >= 30:
        kept = tables.load()
        kept["soak"] = {"machine": machine.described(), **figures}
        tables.save(kept)
    return int(
        bool(figures["restarts"] or figures["unanswered"] or figures["outcomes"].get("invented") or stopped)
    )


def _options(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", metavar="NAMES", help=", ".join(fault.name for fault in FAULTS))
    parser.add_argument("--naive", action="store_true", help="use the naive watchdog instead of guardian.sh")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="overload instead of faults")
    parser.add_argument("--keep", metavar="FOLDER", help="folder for the logs of a soak")
    parser.add_argument("--write", action="store_true", help="update docs/ even with --only or a short soak")
    return parser.parse_args(argv)


def _enter_mount_namespace(argv: Sequence[str]) -> None:
    """Restart in a mount namespace if root, so that no test mount remains."""
    if os.geteuid() == 0 and "FAULTS_UNSHARED" not in os.environ:
        os.environ["FAULTS_UNSHARED"] = "1"
        os.execvp("unshare", ["unshare", "--mount", sys.executable, "-m", "lab.faults.report", *argv])


if __name__ == "__main__":
    _enter_mount_namespace(sys.argv[1:])
    sys.exit(main(sys.argv[1:]))

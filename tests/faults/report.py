"""``python -m tests.faults.report``: brings each fault upon a real instance, writes the table in Markdown.

    python -m tests.faults.report                    all faults, the guardian
    python -m tests.faults.report --only kill,stop   some of them
    python -m tests.faults.report --naive            beside it the naive watchdog (tests/faults/naive.sh)
    python -m tests.faults.report --model FOLDER     another model than the demo model

Exit status 1 if the guardian failed a fault. The naive watchdog's failures are figures, not failures.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
from pathlib import Path

from tests.faults.catalogue import FAULTS, Fault, Result
from tests.faults.service import Service

HEAD = "| fault | watchdog | what users saw | detected, s | healthy, s | requests lost |"


def main() -> int:
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # or the instances would outlive us
    chosen = [fault for fault in FAULTS if not options.only or fault.name in options.only.split(",")]
    print(f"Machine: {os.cpu_count()} CPUs, {platform.machine()}; model: {options.model}.\n")
    print(HEAD + "\n|---|---|---|---|---|---|", flush=True)
    failed = False
    for fault in chosen:
        for naive in (False, True) if options.naive and fault.naive else (False,):
            try:
                row = _row(_measure(fault, options.model, naive), naive)
            except AssertionError as error:
                failed = failed or not naive
                print(error, file=sys.stderr)
                row = f"| {fault.title} | {_watchdog(naive)} | **{str(error).splitlines()[0]}** | – | – | – |"
            print(row, flush=True)
    return int(failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", default="", help=", ".join(fault.name for fault in FAULTS))
    parser.add_argument("--naive", action="store_true", help="measure the naive watchdog too")
    parser.add_argument("--model", default="demo", help="what web_app.py serves")
    return parser.parse_args()


def _measure(fault: Fault, model: str, naive: bool) -> Result:
    with (
        tempfile.TemporaryDirectory(prefix="faults-") as folder,
        Service(Path(folder) / "run", model, naive=naive) as service,
    ):
        service.start()
        return fault.run(service)


def _row(result: Result, naive: bool) -> str:
    seconds = [f"{value:.1f}" if value is not None else "–" for value in (result.detection, result.healthy)]
    cells = (result.fault, _watchdog(naive), result.users_saw, *seconds, str(result.lost))
    return f"| {' | '.join(cells)} |"


def _watchdog(naive: bool) -> str:
    return "naive" if naive else "guardian.sh"


if __name__ == "__main__":
    sys.exit(main())

"""The doctor's command line.

Exit status: 0 nothing found, 1 warnings, 2 something critical, 64 wrong usage or nothing to read.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from service.doctor import diagnose, live, read, report
from service.doctor.findings import in_order

EXIT_USAGE: Final = 64
ROOT: Final = Path(__file__).resolve().parents[2]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"doctor: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def main(argv: Sequence[str]) -> int:
    parser = _Parser(
        prog="python -m service.doctor",
        description="Say what is wrong with an instance, since when, why and what to do, from its logs and, "
        "if it runs, from its health endpoint.",
        epilog="Exit status: 0 nothing found, 1 warnings, 2 something critical, 64 wrong usage or no logs.",
    )
    folder = os.environ.get("OFA_RUN_DIR") or ROOT
    parser.add_argument(
        "run_dir", nargs="?", type=Path, default=Path(folder), help="the folder with the logs"
    )
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--offline", action="store_true", help="read the logs alone, ask no endpoint")
    given = parser.parse_args(list(argv))
    records = read(given.run_dir)
    if records.empty:
        parser.error(f"there are no logs in {given.run_dir}")
    findings = diagnose(records)
    if not given.offline:
        findings = in_order([*findings, *live.look(records)])
    print((report.as_json if given.json else report.as_text)(records, findings))
    return report.status(findings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

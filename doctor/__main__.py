"""The doctor's command line: python -m doctor [RUN_DIR] [--json] [--lang zh] [--offline]"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn

from doctor import diagnose, live, read, report
from doctor.findings import in_order
from service.streams import use_utf8
from service.texts import LANGUAGES

EXIT_USAGE: Final = 64
ROOT: Final = Path(__file__).resolve().parents[1]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"doctor: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def main(argv: Sequence[str]) -> int:
    """Print the findings and return the exit status."""
    use_utf8()
    parser = _Parser(
        prog="python -m doctor",
        description="Find problems of an instance in its logs and, if it runs, in its health endpoint: what "
        "is wrong, since when, why, and how to fix it.",
        epilog="Exit status: 0 no problem, 1 warnings, 2 something critical, 64 wrong usage or no logs.",
    )
    folder = Path(os.environ.get("OFA_RUN_DIR") or ROOT)
    parser.add_argument("run_dir", nargs="?", type=Path, default=folder, help="the folder with the logs")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--lang", choices=LANGUAGES, default="en", help="English or Chinese; default en")
    parser.add_argument("--offline", action="store_true", help="read the logs only, request no endpoint")
    options = parser.parse_args(list(argv))
    records = read(options.run_dir)
    if records.empty:
        parser.error(f"there are no logs in {options.run_dir}")
    findings = diagnose(records)
    if not options.offline:
        findings = in_order([*findings, *live.check(records)])
    print((report.as_json if options.json else report.as_text)(records, findings, options.lang))
    return report.status(findings)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

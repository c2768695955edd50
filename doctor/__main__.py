"""The doctor's command line.

    python -m doctor [RUN_DIR] [--lang zh]      what is wrong
    python -m doctor train-latency [RUN_DIR]    learn how long requests take

Exit status: 0 nothing found, 1 warnings (or: learnt nothing worth keeping), 2 something critical, 64 wrong
usage or nothing to read.
"""

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

EXIT_USAGE: Final = 64
ROOT: Final = Path(__file__).resolve().parents[1]


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        print(f"doctor: {message}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE)


def main(argv: Sequence[str]) -> int:
    use_utf8()
    return _train(argv[1:]) if argv[:1] == ["train-latency"] else _examine(argv)


def _train(argv: Sequence[str]) -> int:
    parser = _Parser(
        prog="python -m doctor train-latency",
        description="Learn from the logs how long requests take. What was learnt is kept beside them if it "
        "beats the moving average on requests it has not seen, and loaded at the next start.",
    )
    parser.add_argument("run_dir", nargs="?", type=Path, default=_folder(), help="the folder with the logs")
    parser.add_argument("--held-out", type=Path, metavar="DIR", help="try it on the logs of this folder")
    given = parser.parse_args(list(argv))
    from doctor.training import TooFew, train

    try:
        outcome = train(read(given.run_dir), read(given.held_out) if given.held_out else None)
    except TooFew as error:
        parser.error(str(error))
    print(outcome)
    return 0 if outcome.kept else 1


def _examine(argv: Sequence[str]) -> int:
    parser = _Parser(
        prog="python -m doctor",
        description="Say what is wrong with an instance, since when, why and what to do, from its logs and, "
        "if it runs, from its health endpoint.",
        epilog="Exit status: 0 nothing found, 1 warnings, 2 something critical, 64 wrong usage or no logs.",
    )
    parser.add_argument("run_dir", nargs="?", type=Path, default=_folder(), help="the folder with the logs")
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument("--lang", choices=("en", "zh"), default="en", help="English or Chinese; default en")
    parser.add_argument("--offline", action="store_true", help="read the logs alone, ask no endpoint")
    given = parser.parse_args(list(argv))
    records = read(given.run_dir)
    if records.empty:
        parser.error(f"there are no logs in {given.run_dir}")
    findings = diagnose(records)
    if not given.offline:
        findings = in_order([*findings, *live.look(records)])
    print((report.as_json if given.json else report.as_text)(records, findings, given.lang))
    return report.status(findings)


def _folder() -> Path:
    return Path(os.environ.get("OFA_RUN_DIR") or ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

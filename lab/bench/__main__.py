"""Command line of the benchmark; `make bench` runs it.

A full run takes about 45 minutes on two processors with ModelScope's side. --only measures single sections
and merges them into the results of earlier runs. Exit status 0 when every requested section was measured, 1
when one failed; the others are still measured.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any, Final, NoReturn

import torch

from lab import ROOT
from lab.bench.ablation import ablation
from lab.bench.agreement import agreement
from lab.bench.background import background
from lab.bench.fairness import fair, retry
from lab.bench.kinds import kinds
from lab.bench.latency import latency, pictures, together
from lab.bench.lists import batch
from lab.bench.load import batches, load
from lab.bench.machine import describe
from lab.bench.margin import margin
from lab.bench.overhead import overhead
from lab.bench.plot import draw
from lab.bench.polling import polling
from lab.bench.reading import reading
from lab.bench.report import kind_of, markdown, merge, read, write
from lab.bench.sides import Subject, published
from lab.bench.stages import stages
from lab.bench.start import start
from ofa.precision import MARGINS, best_dtype, name_of

SECTIONS: Final[Mapping[str, Callable[[Subject], dict[str, Any]]]] = {
    "latency": latency,
    "pictures": pictures,
    "together": together,
    "load": load,
    "batches": batches,
    "fair": fair,
    "retry": retry,
    "background": background,
    "stages": stages,
    "start": start,
    "polling": polling,
    "reading": reading,
    "overhead": overhead,
    "batch": batch,
    "agreement": agreement,
    "margin": margin,
    "ablation": ablation,
    "kinds": kinds,
}
WORK: Final = ROOT / "build" / "bench"
KEPT: Final = ROOT / "lab" / "bench"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    if options.threads:
        torch.set_num_threads(options.threads)
    out = options.out or (WORK / "quick" if options.quick else KEPT)
    results = read(out / "results.json")
    failed: list[str] = []
    names = [name for name in options.only or SECTIONS if name not in (options.skip or ())]
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as scratch,
        closing(_subject(options, Path(scratch))) as subject,
    ):
        for name in names:
            print(f"{name} …", file=sys.stderr, flush=True)
            began, machine = time.monotonic(), describe(subject.device)
            try:
                data = SECTIONS[name](subject)
            except Exception:
                traceback.print_exc()
                failed.append(name)
                continue
            data["seconds_to_measure"] = round(time.monotonic() - began, 1)
            merge(results, subject.device, name, data, {**machine, "model": subject.folder.name})
            write(results, out)  # after each section, so that an interrupted run keeps its results
            if name == "load":
                kind = kind_of(subject.device)
                draw(results[kind][name], out / f"load-{kind}.png")
    print(markdown(results))
    print(f"Kept in {out}", file=sys.stderr)
    if failed:
        print(f"Failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def _exit(number: int, frame: FrameType | None) -> NoReturn:
    """Exit on SIGTERM through the context managers, which stop the child processes."""
    raise SystemExit(128 + number)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.bench", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("--quick", action="store_true", help="the 33 M size, few runs: under two minutes")
    parser.add_argument(
        "--only", type=_sections, metavar="A,B", help=f"only these sections: {', '.join(SECTIONS)}"
    )
    parser.add_argument("--skip", type=_sections, metavar="A,B", help="all but these sections")
    parser.add_argument("--model", type=Path, help="a model folder (default: random weights)")
    parser.add_argument("--small", type=Path, help="folder for the random pairs (default: random weights)")
    parser.add_argument(
        "--reference",
        type=Path,
        nargs="?",
        const=ROOT / ".venv-modelscope" / "bin" / "python",
        metavar="PYTHON",
        help="also measure ModelScope's pipeline, with the Python of its environment (make builds one)",
    )
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0 uses torch's default")
    parser.add_argument("--pairs", type=int, help="pairs of the agreement (1000; 40 when quick)")
    parser.add_argument("--rounds", type=int, help="rounds of the latency (9; 3 when quick)")
    parser.add_argument(
        "--closer-than", type=float, help="margin of the precision guard (default: service's)"
    )
    parser.add_argument("--out", type=Path, help="folder for the results (lab/bench, or build/bench/quick)")
    return parser


def _sections(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in SECTIONS]:
        raise argparse.ArgumentTypeError(f"no such section: {', '.join(unknown)}")
    return names


def _subject(options: argparse.Namespace, scratch: Path) -> Subject:
    small = options.small or published("distilled", WORK)
    folder = options.model or (small if options.quick else published("large", WORK))
    return Subject(
        folder=folder.absolute(),
        small=small.absolute(),
        scratch=scratch,
        device=options.device,
        quick=options.quick,
        cache=WORK / "cache",
        python=options.reference.absolute() if options.reference else None,
        pairs=options.pairs or (40 if options.quick else 1000),
        rounds=options.rounds or (3 if options.quick else 9),
        closer_than=options.closer_than or MARGINS[name_of(best_dtype(options.device))],
    )


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _exit)
    sys.exit(main())

"""Command line of the GPU check; `make gpu-check` runs it.

Three steps, each in its own process, since a GPU fault can end a process: number formats against fp32 on the
CPU; speed and memory; faults. Together they take at most eight minutes. results.json is written after each
part of a step, so that an interrupted check keeps its results.

Exit status 0 when every step finished and every part is as promised, else 1.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch

from lab import ROOT
from lab.bench.gpu.faults import faults
from lab.bench.gpu.precision import precision
from lab.bench.gpu.speed import speed
from lab.bench.machine import describe
from lab.bench.sides import Subject, published
from ofa.precision import MARGINS, best_dtype, name_of

Figures = dict[str, Any]

STEPS: Final[Mapping[str, Callable[[Subject], Iterator[Figures]]]] = {
    "precision": precision,
    "speed": speed,
    "faults": faults,
}
#: Time limit of each step in seconds; eight minutes in all.
LIMITS: Final = {"precision": 190.0, "speed": 150.0, "faults": 140.0}
BUILD: Final = ROOT / "build"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    path = options.out.absolute() / "results.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    if options.step:
        return _measure(options, path)
    flags = ["--device", options.device, "--out", str(path.parent)]
    flags += ["--model", str(options.model.absolute())] if options.model else []
    flags += ["--quick"] if options.quick else []
    if options.site:
        paths = [str(options.site.absolute()), os.environ.get("PYTHONPATH", "")]
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    kept = [_run(name, flags, path) for name in STEPS if name in (options.only or STEPS)]
    print(f"Kept in {path}", file=sys.stderr)
    return 0 if all(kept) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m lab.bench.gpu", description=(__doc__ or "").partition("\n\n")[2]
    )
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--model", type=Path, help="a model folder (default: large, random weights)")
    parser.add_argument("--quick", action="store_true", help="a small network and few pairs")
    parser.add_argument("--only", nargs="+", choices=STEPS, help="only these steps")
    parser.add_argument("--site", type=Path, help="a folder with packages that this Python lacks")
    parser.add_argument("--out", type=Path, default=BUILD / "gpu-check", help="folder for results.json")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    return parser


def _run(name: str, flags: Sequence[str], path: Path) -> bool:
    """Run one step in its own process group; return whether it finished and every part is as promised."""
    print(f"{name} …", file=sys.stderr, flush=True)
    record(path, name, {"state": "started"})
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        child = subprocess.Popen(
            [sys.executable, "-m", "lab.bench.gpu", *flags, "--step", name],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": scratch},
            start_new_session=True,
        )
        try:
            code = child.wait(LIMITS[name])
        except subprocess.TimeoutExpired:
            code = None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    figures = json.loads(path.read_text(encoding="utf-8"))[name]
    if code != 0:
        figures |= {"state": "cut" if code is None else "failed", "exit_code": code}
        record(path, name, figures)
    print(json.dumps({name: figures}, ensure_ascii=False), flush=True)
    parts = [part for part in figures.values() if isinstance(part, dict)]
    return code == 0 and all(part.get("as_promised", True) for part in parts)


def _measure(options: argparse.Namespace, path: Path) -> int:
    """Run a step in this process and return its exit status."""
    began = time.monotonic()
    found: Figures = {}
    about: Figures = {"measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")}
    state = "done"
    try:
        with tempfile.TemporaryDirectory() as scratch:
            subject = _subject(options, Path(scratch))
            about |= {"model": subject.folder.name, "machine": describe(subject.device)}
            for found in STEPS[options.step](subject):
                record(path, options.step, {"state": "running", **about, **found})
    except Exception as error:
        traceback.print_exc()
        state = "failed"
        about["error"] = f"{type(error).__name__}: {str(error)[:500]}"
    seconds = round(time.monotonic() - began, 1)
    record(path, options.step, {"state": state, "seconds": seconds, **about, **found})
    return 0 if state == "done" else 1


def _subject(options: argparse.Namespace, scratch: Path) -> Subject:
    folder = options.model or published("defaults-resnet18" if options.quick else "large", BUILD / "bench")
    return Subject(
        folder=folder,
        small=folder,
        scratch=scratch,
        device=options.device,
        quick=options.quick,
        cache=scratch / "cache",
        python=None,
        pairs=4,  # per set when quick
        rounds=2 if options.quick else 30,
        closer_than=MARGINS[name_of(best_dtype(options.device))],
    )


def record(path: Path, name: str, figures: Mapping[str, Any]) -> None:
    """Replace a step's figures, atomically."""
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    results.pop(name, None)  # keeps the file in the order of the steps
    text = json.dumps({**results, name: figures}, indent=1, ensure_ascii=False)
    part = path.with_suffix(".part")
    part.write_text(text + "\n", encoding="utf-8")
    part.replace(path)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # runs the clean-up of the step's process
    sys.exit(main())

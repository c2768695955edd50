"""`python -m lab.parity`: compare ofa/ with ModelScope's own pipeline, live.

Exit status: 0 when every folder is within the tolerance, 1 when one is not, 2 when the comparison failed.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from lab import ROOT
from lab.parity.backend import compare_backend
from lab.parity.compare import TOLERANCE, FolderResult, compare_folder
from lab.parity.folders import PUBLISHED, SMALL, SPECS, FolderSpec, random_weights, write_folder
from lab.parity.goldens import write_golden, write_pictures_golden
from lab.parity.pairs import PAIRS, card_pairs, pairs_for, write_pictures
from lab.parity.report import HEAD, record, record_note, row
from lab.reference.process import ReferenceFailed, ReferenceProcess
from ofa.checkpoint import WEIGHT_FILES
from ofa.config import TaskConfig
from ofa.errors import OFAError
from service.contract.errors import ServiceError
from service.hub.resolve import resolve
from service.inference.modelscope.process import ChildEnded, ChildSilent

DEMO = ROOT / "models" / "demo"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    python = options.reference_python
    if python is None or not python.is_file():
        print(
            "ModelScope's environment is missing. Run `make parity`, which builds it (5 GB, 5 min), "
            "or pass --reference-python or OFA_REFERENCE_PYTHON.",
            file=sys.stderr,
        )
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # removes the scratch folder
    try:
        with tempfile.TemporaryDirectory(prefix="parity-") as scratch:
            results = _compare(options, python, Path(scratch))
    except (ReferenceFailed, ChildEnded, ChildSilent, OFAError, ServiceError) as error:
        print(f"python -m lab.parity: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    failed = [result.name for result in results if not result.passed]
    print(f"{len(results) - len(failed)} of {len(results)} folders within {TOLERANCE:.0e}" + _listed(failed))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    environment = os.environ.get("OFA_REFERENCE_PYTHON")
    parser = argparse.ArgumentParser(prog="python -m lab.parity", description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--reference-python",
        type=Path,
        default=Path(environment) if environment else None,
        metavar="PATH",
        help="the Python of ModelScope's environment (OFA_REFERENCE_PYTHON)",
    )
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--model", metavar="MODEL", help="real weights: a hub id, a folder, or demo")
    what.add_argument("--folder", action="append", choices=tuple(SPECS), help="only this folder (repeatable)")
    what.add_argument("--quick", action="store_true", help="only the small folders")
    parser.add_argument(
        "--write-goldens",
        action="store_true",
        help="also rewrite the goldens in tests/parity and the rows of these folders in docs/parity.md",
    )
    return parser


def _compare(options: argparse.Namespace, python: Path, scratch: Path) -> list[FolderResult]:
    pictures = scratch / "pictures"
    pictures.mkdir()
    write_pictures(pictures)
    print(" | ".join(HEAD))
    results: list[FolderResult] = []
    with ReferenceProcess(python) as reference:
        for name, spec in _wanted(options).items():
            folder = _folder(name, spec, scratch)
            slots = TaskConfig.from_folder(folder).prompt_slots
            pairs = (*pairs_for(slots), *card_pairs(folder))
            result = compare_folder(reference, name, folder, pairs, pictures)
            _show(result)
            results.append(result)
            if options.write_goldens:
                _keep(result, spec)
    if options.write_goldens:
        write_pictures_golden(pictures, (pair.picture for pair in PAIRS))
    for result in [result for result in results if result.name in SMALL][:1]:
        note = _backend_note(python, result, scratch, pictures)
        print(note)
        if options.write_goldens:
            record_note(note)
    return results


def _keep(result: FolderResult, spec: FolderSpec | None) -> None:
    """Record one folder at once, so that an interrupted comparison keeps its results."""
    if spec is not None and result.name in SMALL:
        write_golden(result, random_weights(spec))
    if spec is not None or result.name == "demo":
        record(result)


def _wanted(options: argparse.Namespace) -> dict[str, FolderSpec | None]:
    """Return name → folder to make, or None for an existing model."""
    if options.model:
        return {options.model: None}
    if options.folder:
        return {name: SPECS[name] for name in options.folder}
    demo: dict[str, FolderSpec | None] = (
        {"demo": None} if any((DEMO / name).is_file() for name in WEIGHT_FILES) else {}
    )
    return {**SMALL, **demo, **({} if options.quick else PUBLISHED)}


def _folder(name: str, spec: FolderSpec | None, scratch: Path) -> Path:
    return resolve(name) if spec is None else write_folder(scratch / name, spec)


def _backend_note(python: Path, result: FolderResult, scratch: Path, pictures: Path) -> str:
    delta = compare_backend(python, scratch / result.name, result, pictures)
    if delta > TOLERANCE:
        raise ReferenceFailed(f"--backend modelscope differs by {delta:.1e} on {result.name}")
    return f"`--backend modelscope` on {result.name}: max abs Δp {delta:.1e} against the pipeline itself."


def _show(result: FolderResult) -> None:
    print(" | ".join(row(result)), flush=True)
    for pair in result.results:
        if max(pair.delta, pair.batched_delta) > TOLERANCE or list(pair.tokens) != list(pair.our_tokens):
            print(f"    {pair.pair.picture}, {pair.pair.text[:40]!r}: {pair.reference} / {pair.ours}")
    for key in result.keys_differing:
        print(f"    {key} differs")


def _listed(names: Sequence[str]) -> str:
    return "; not: " + ", ".join(names) if names else ""


if __name__ == "__main__":
    sys.exit(main())

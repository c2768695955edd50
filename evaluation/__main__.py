"""``python -m evaluation``: accuracy and calibration of a model on labelled data.

    python -m evaluation DATA [--pictures FOLDER] [--model MODEL] …
    python -m evaluation --compare REPORT REPORT
    python -m evaluation calibrate DATA …

Exit status:

* 0: done
* 1: a row could not be judged, the accuracy is below --min-accuracy, the calibration was not written, or the
  model cannot be loaded now
* 2: invalid command line, or data, a report or an output that cannot be used
* 71: the GPU was lost; the same command continues
* 78: the model, the device, the precision or a missing package; a retry does not help
* 130: interrupted
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from batch.journal import RunError
from evaluation.conditions import BY_NAME, CONDITIONS
from evaluation.formats import FORMS
from service.contract.errors import InputError, MissingDependency, ServiceError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if given[:1] == ["calibrate"]:
            return _calibrate(given[1:])
        return _evaluate(given)
    except ServiceError as error:
        message = error.sentence
        print(f"python -m evaluation: {error.code}: {message}", file=sys.stderr)
        return 2 if isinstance(error, InputError | RunError) else error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # flushing at exit must not fail
        return 1
    except OSError as error:
        print(f"python -m evaluation: the data or the output failed: {error.strerror}.", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _evaluate(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation",
        description="Measure a model's accuracy and calibration on labelled data. Continues a killed run.",
        epilog="See also: python -m evaluation calibrate --help",
    )
    _add_data(parser, optional=True)
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="the report's folder (build/evaluation/DATA-MODEL)"
    )
    parser.add_argument(
        "--conditions",
        type=_conditions,
        metavar="NAME,…",
        help="what the model is shown; the first one decides --min-accuracy (all that data and model allow): "
        + "; ".join(f"{one.name}: {one.meaning}" for one in CONDITIONS),
    )
    parser.add_argument(
        "--min-accuracy", type=_share, metavar="SHARE", help="exit with 1 below this accuracy, e.g. 0.9"
    )
    parser.add_argument(
        "--compare",
        nargs=2,
        type=Path,
        metavar="REPORT",
        help="compare two reports (report.json) of the same data instead: McNemar's exact test",
    )
    options = parser.parse_args(given)
    if (options.data is None) == (options.compare is None):
        parser.error("pass either DATA or --compare")
    with _extra():
        from evaluation import evaluating
    if options.compare is not None:
        return evaluating.compare(*options.compare)
    return evaluating.evaluate(options)


def _calibrate(given: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m evaluation calibrate",
        description="Fit a temperature and two thresholds to labelled data, check them on pairs kept back, "
        "and write them beside the model's weights if they help.",
    )
    _add_data(parser, optional=False)
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write here (calibration.json in the model's folder)"
    )
    parser.add_argument(
        "--condition",
        choices=("picture", "premise"),
        default="picture",
        help="what the model is shown: as the service will be used (picture)",
    )
    parser.add_argument(
        "--held-out",
        type=_share,
        default=0.5,
        metavar="SHARE",
        help="share of the pictures kept back to check (0.5)",
    )
    parser.add_argument(
        "--accept-risk",
        type=_share,
        default=0.01,
        metavar="SHARE",
        help="largest share of errors among accepted verdicts (0.01)",
    )
    parser.add_argument(
        "--review-risk",
        type=_share,
        default=0.05,
        metavar="SHARE",
        help="largest share of errors among verdicts that are accepted or to be reviewed (0.05); less "
        "confident ones are rejected",
    )
    options = parser.parse_args(given)
    if options.review_risk < options.accept_risk:
        parser.error("--review-risk is smaller than --accept-risk")
    with _extra():
        from evaluation import calibrating
    return calibrating.calibrate(options)


def _add_data(parser: argparse.ArgumentParser, *, optional: bool) -> None:
    parser.add_argument(
        "data",
        nargs="?" if optional else None,
        type=Path,
        metavar="DATA",
        help="labelled data: SNLI-VE, e-SNLI-VE, OFA's TSV, SugarCrepe, VALSE, FOIL, or a list with labels",
    )
    parser.add_argument("--format", choices=FORMS, help="the format of the data (recognised by its fields)")
    parser.add_argument(
        "--pictures", type=Path, metavar="FOLDER", help="where its pictures are (the data's own folder)"
    )
    parser.add_argument(
        "--model", default="demo", help="a model folder, a ModelScope hub id, or 'demo' (demo)"
    )
    parser.add_argument("--device", default="auto", metavar="auto|cpu|cuda[:N]", help="as for the service")
    parser.add_argument("--dtype", default="auto", metavar="auto|fp32|bf16|fp16", help="as for the service")


@contextmanager
def _extra() -> Iterator[None]:
    """Explain a missing package of requirements-evaluation.txt."""
    try:
        yield
    except ImportError as error:
        raise MissingDependency(
            f"The package {error.name} is missing.", remedy="pip install -r requirements-evaluation.txt"
        ) from error


def _conditions(written: str) -> list[str]:
    names = list(dict.fromkeys(written.split(",")))
    if unknown := [name for name in names if name not in BY_NAME]:
        raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; known: {', '.join(BY_NAME)}")
    return names


def _share(written: str) -> float:
    try:
        share = float(written)
    except ValueError:
        share = -1.0
    if not 0.0 < share <= 1.0:
        raise argparse.ArgumentTypeError("a number from 0 to 1 is needed, not 0")
    return share


if __name__ == "__main__":
    sys.exit(main())

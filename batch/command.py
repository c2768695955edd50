"""The command line ``python -m ofa``: judge pairs of picture and sentence as the service does.

Input is one pair with ``--image`` and ``--text``, JSON lines on standard input, or a list with ``--input``.
Pairs and lines are answered by one JSON line each on standard output, in order: the verdict in the service's
fields, or an error with its code. UTF-8 regardless of the locale. A list is answered by a file
(docs/batches.md).

Exit status:

* 0: all lines were judged
* 1: a line was not judged, or the model cannot be loaded now
* 2: invalid command line, or a list or output that cannot be used
* 71: the GPU was lost; a list is continued with --resume
* 78: the model, the device or the precision cannot be used; a retry does not help
* 130: interrupted
* 141: the output pipe was closed
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from pathlib import Path
from typing import Final

from batch.journal import RunError, journal_of
from batch.judging import go_on
from batch.loading import load
from batch.local import LocalRun, Summary
from batch.pipe import Pipe
from batch.rows import Columns, ListError
from service.contract.errors import ServiceError
from service.hub import resolve as hub
from service.inference import calibrating
from service.settings import Settings

_USAGE: Final = 2
_INTERRUPTED: Final = 130
_PIPE_CLOSED: Final = 128 + 13  # a shell's status of a program killed by SIGPIPE
_COLUMNS: Final = ("image", "text", "premise", "id")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(parser, options)
    try:
        return _run(options)
    except (ListError, RunError) as error:
        _say(f"{error.code}: {error.sentence}")
        if isinstance(error, ListError) and error.columns:
            _say(f"The list has these columns: {', '.join(error.columns)}")
        return _USAGE
    except ServiceError as error:
        _say(error.sentence)
        _say_how_to_resume(options)
        return error.exit_code
    except BrokenPipeError:
        _drop_output()
        return _PIPE_CLOSED
    except OSError as error:
        where = "the list or the output" if options.input else "standard input or output"
        _say(f"{where} failed: {error.strerror}")
        _say_how_to_resume(options)
        if not options.input:
            _drop_output()
        return 1
    except KeyboardInterrupt:
        _say_how_to_resume(options)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ofa",
        description="Judge whether a picture shows what a sentence says: Yes, No or Maybe.",
        epilog="Without --image and --input, JSON lines "
        '{"image": FILE, "text": TEXT, "premise"?: TEXT, "id"?: ID} are read from standard input. '
        "Each answer is a JSON line that starts with the line number.",
    )
    parser.add_argument("--model", required=True, help="a model folder, a ModelScope hub id, or 'demo'")
    parser.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda[:N]", help="auto uses CUDA if available"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        metavar="auto|fp32|bf16|fp16|int8",
        help="auto is bf16 where the hardware multiplies it, else fp32 (fp16 on older GPUs), and on a CPU "
        "int8 if the service has checked it on the model's weights",
    )
    parser.add_argument(
        "--precision-guard",
        default="on",
        metavar="on|off",
        help="decide close calls of a precision below fp32 in fp32",
    )
    parser.add_argument(
        "--language",
        default="auto",
        metavar="auto|any",
        help="auto refuses texts mostly in a script that the model's language does not use",
    )
    parser.add_argument("--image", metavar="FILE", help="picture file")
    parser.add_argument("--text", action="append", help="hypothesis; may be given several times")
    parser.add_argument("--premise", help="premise")
    lists = parser.add_argument_group("lists")
    lists.add_argument(
        "--input",
        type=Path,
        metavar="LIST",
        help="CSV, TSV, JSONL, XLSX, a zip of pictures with a list, or a folder of name.jpg and name.txt",
    )
    lists.add_argument("--output", type=Path, metavar="FILE", help="results as .csv, .tsv or .jsonl")
    lists.add_argument("--resume", action="store_true", help="continue a run that was stopped")
    for name in _COLUMNS:
        lists.add_argument(f"--{name}-column", metavar="NAME", help=f"the column of the {name}")
    return parser


def _check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Exit with status 2 for options that do not go together."""
    if (options.image is None) != (options.text is None):
        parser.error("--image and --text go together")
    if (options.input is None) != (options.output is None):
        parser.error("--input and --output go together")
    of_list = [options.resume, *(getattr(options, f"{name}_column") for name in _COLUMNS)]
    if options.input is None and any(of_list):
        parser.error("--resume and the columns need --input")
    if options.input is not None and any((options.image, options.text, options.premise)):
        parser.error("--input takes pictures and texts from the list")
    if options.input is None and (sys.stdout is None or (options.image is None and sys.stdin is None)):
        parser.error("standard input or output is closed")


def _run(options: argparse.Namespace) -> int:
    """Return the exit status. Raises ServiceError, OSError, KeyboardInterrupt."""
    settings = _settings(options)
    local = None
    if options.input is not None:  # before the model is loaded, since this may fail
        columns = Columns(*(getattr(options, f"{name}_column") for name in _COLUMNS))
        local = LocalRun(options.input, options.output, columns, resume=options.resume)
    model, folder = load(settings)
    listed = functools.partial(hub.listed_checksum, model=settings.model)
    calibration = calibrating.read(folder, listed, go_on).calibration
    if local is not None:
        failed = _report(local.run(model, folder, settings, calibration), options.output)
    else:
        pairs = [
            {"image": options.image, "text": text, "premise": options.premise} for text in options.text or ()
        ]
        failed = Pipe(model, settings, calibration).run(pairs)
    model.keep(go_on)
    return int(failed)


def _settings(options: argparse.Namespace) -> Settings:
    """The service's settings, so that both refuse the same input. Raises SettingsError."""
    shared = ("model", "device", "dtype", "precision_guard", "language")
    given = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in shared]
    return Settings.from_args(given, {}, prog="python -m ofa")


def _report(summary: Summary, output: Path) -> bool:
    """Print what was done; return whether a row failed."""
    before = summary.rows - summary.judged
    resumed = f", {before} of them before" if before else ""
    rate = f", {summary.per_second:.1f} rows/s" if summary.judged else ""
    print(f"{summary.rows} rows{resumed}, {summary.failed} failed{rate}: {output}", file=sys.stderr)
    return summary.failed > 0


def _say_how_to_resume(options: argparse.Namespace) -> None:
    if options.output is not None and journal_of(options.output).exists():
        _say("What was judged is kept. Run the same command with --resume to continue.")


def _say(text: str) -> None:
    print(f"python -m ofa: {text}", file=sys.stderr)


def _drop_output() -> None:
    """Redirect standard output, so that flushing its buffer at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

"""``python -m ofa``: judge pairs of picture and sentence from the command line, as the service does.

Input is one pair with ``--image`` and ``--text``, or JSON lines on standard input. Output is one JSON line
per pair, in order: the verdict in the service's fields, or an error with its code. UTF-8 regardless of the
locale.

Exit status:

* 0: all lines were judged
* 1: a line was not judged, or the model cannot be loaded now
* 2: invalid command line
* 78: the model, the device or the precision cannot be used; a retry does not help
* 130: interrupted
* 141: the output pipe was closed
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from tqdm import tqdm

from ofa import documents
from service.contract.causes import LineCode, Outcome
from service.contract.errors import (
    DamagedFile,
    DamagedFolder,
    DeviceLost,
    InputError,
    ServiceError,
    TransientLoadError,
)
from service.contract.request import Pair, Verdict
from service.hub import resolve as hub
from service.intake import image as image_input
from service.intake import text
from service.settings import Settings

if TYPE_CHECKING:
    from service.inference.native import NativePredictor

MAX_LINE: Final = 1 << 20  # bytes
MAX_ID: Final = 256  # characters
_PIPE_CLOSED: Final = 128 + 13  # a shell's status of a program killed by SIGPIPE


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if (options.image is None) != (options.text is None):
        parser.error("--image and --text go together")
    if sys.stdout is None or (options.image is None and sys.stdin is None):
        parser.error("standard input or output is closed")
    try:
        settings = _settings(options)
        try:
            model = _load(settings)
        except ServiceError:
            raise
        except Exception as error:
            raise TransientLoadError(f"Unexpected {type(error).__name__} while loading the model.") from error
        status = _run(model, settings, options)
        model.keep(_go_on)
        return status
    except ServiceError as error:
        print(f"python -m ofa: {_sentence(error)}", file=sys.stderr)
        return error.exit_code
    except BrokenPipeError:
        _drop_output()
        return _PIPE_CLOSED
    except OSError as error:
        print(f"python -m ofa: standard input or output failed: {error.strerror}", file=sys.stderr)
        _drop_output()
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ofa",
        description="Judge whether a picture shows what a sentence says: Yes, No or Maybe.",
        epilog='Without --image, JSON lines {"image": FILE, "text": TEXT, "premise"?: TEXT, "id"?: ID} are '
        "read from standard input. Each answer is a JSON line that starts with the line number.",
    )
    parser.add_argument("--model", required=True, help="a model folder, a ModelScope hub id, or 'demo'")
    parser.add_argument(
        "--device", default="auto", metavar="auto|cpu|cuda[:N]", help="auto uses CUDA if available"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        metavar="auto|fp32|bf16|fp16",
        help="auto is bf16 where the hardware multiplies it, else fp32 (fp16 on older GPUs)",
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
    parser.add_argument("--text", help="hypothesis")
    parser.add_argument("--premise", help="premise")
    return parser


def _settings(options: argparse.Namespace) -> Settings:
    """The service's settings, so that both refuse the same input. Raises SettingsError."""
    shared = ("model", "device", "dtype", "precision_guard", "language")
    given = [f"--{name.replace('_', '-')}={getattr(options, name)}" for name in shared]
    return Settings.from_args(given, {}, prog="python -m ofa")


def _load(settings: Settings) -> NativePredictor:
    """Load the model. Raises ServiceError."""
    from service.inference.native import NativePredictor

    model = NativePredictor(
        device=settings.device,
        dtype=settings.dtype,
        guard=settings.precision_guard == "on",
        cache=hub.converted_cache(),
    )
    try:
        model.load(_folder(settings, "quick"))
    except DamagedFile as error:
        if hub.local_folder(settings.model) is not None:
            raise DamagedFolder(error.message) from error
        model.load(_folder(settings, "full"))  # finds and re-fetches damage that sizes and times hide
    return model


def _folder(settings: Settings, verify: str) -> Path:
    with hub.terminal_bar() as show:
        return hub.resolve(settings.model, progress=show, verify=verify)


def _run(model: NativePredictor, settings: Settings, options: argparse.Namespace) -> int:
    """Answer each line; return the exit status. Raises OSError, DeviceLost."""
    lines: Iterable[tuple[int, bytes | None]] = _numbered(sys.stdin.buffer)
    if options.image is not None:
        pair = {"image": options.image, "text": options.text, "premise": options.premise}
        lines = [(1, json.dumps(pair).encode())]
    answers = (_answer(model, settings, number, line) for number, line in lines)
    failed = False
    quiet = options.image is not None or not sys.stderr.isatty()
    for answer in tqdm(answers, unit=" pairs", file=sys.stderr, disable=quiet):
        failed |= "error" in answer
        # A lone surrogate in a file name cannot be encoded in UTF-8; write it as \\udcff.
        line = json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace")
        sys.stdout.buffer.write(line + b"\n")
        sys.stdout.buffer.flush()
    return int(failed)


def _numbered(stream: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """Number and content of lines that are not blank; None for a line longer than MAX_LINE."""
    number = 0
    while line := stream.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE and not line.endswith(b"\n"):
            while line and not line.endswith(b"\n"):
                line = stream.readline(MAX_LINE)
            yield number, None
        elif line.strip():
            yield number, line


def _answer(model: NativePredictor, settings: Settings, number: int, line: bytes | None) -> dict[str, Any]:
    """The answer to one line; an error is an answer too, so that later lines are judged."""
    answer: dict[str, Any] = {"line": number}
    try:
        question = _question(line)
        if "id" in question:
            answer["id"] = question["id"]
        if isinstance(question.get("image"), str):
            answer["image"] = question["image"]
        language = model.language if settings.language == "auto" else None
        texts = text.prepare(question.get("text"), question.get("premise"), settings.max_chars, language)
        picture = image_input.load(
            question.get("image"),
            side=model.side(),
            max_bytes=settings.max_bytes,
            max_pixels=settings.max_pixels,
        )
        (scores,) = model.judge([Pair(picture.image, texts.hypothesis, texts.premise)], _go_on)
        return answer | Verdict.of(scores, duration=0.0, device=model.device).as_dict()
    except DeviceLost:
        raise
    except InputError as error:
        return answer | {"reason": Outcome.INVALID, "code": error.code, "error": _sentence(error)}
    except ServiceError as error:
        return answer | {"reason": Outcome.ERROR, "code": error.code, "error": _sentence(error)}
    except Exception as error:  # such as MemoryError: only this line fails
        message = f"Unexpected {type(error).__name__}."
        return answer | {"reason": Outcome.ERROR, "code": Outcome.ERROR, "error": message}


def _question(line: bytes | None) -> dict[str, Any]:
    """Parse a line. Raises InputError with a LineCode."""
    if line is None:
        raise InputError(
            f"The line has more than {MAX_LINE} bytes.", code=LineCode.LINE_TOO_LONG, remedy="Shorten it."
        )
    remedy = 'A line is {"image": FILE, "text": TEXT} in UTF-8.'
    try:
        question = documents.parse(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise InputError("The line is not in UTF-8.", code=LineCode.MALFORMED, remedy=remedy) from error
    except ValueError as error:
        raise InputError(f"The line is {error}.", code=LineCode.MALFORMED, remedy=remedy) from error
    if not isinstance(question, dict):
        raise InputError("The line is not a JSON object.", code=LineCode.MALFORMED, remedy=remedy)
    name = question.get("id")
    if type(name) not in (str, int, type(None)) or len(str(name)) > MAX_ID:
        raise InputError(
            "The id must be an integer or a short string.",
            code=LineCode.MALFORMED,
            remedy=f"Use at most {MAX_ID} characters.",
        )
    return question


def _sentence(error: ServiceError) -> str:
    return f"{error.message} {error.remedy}".strip()


def _go_on() -> None:
    """A cancel point that never cancels."""


def _drop_output() -> None:
    """Redirect standard output, so that flushing its buffer at exit does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())

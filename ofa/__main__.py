"""``python -m ofa``: judge pairs of picture and sentence from the command line.

One pair with ``--image`` and ``--text``, or JSON lines on standard input; one JSON line out for each in, in
order. Exit status: 0 when every line was judged, 1 when one was not, 2 for a wrong command line or a model
that cannot be loaded.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

import torch
from tqdm import tqdm

from ofa.errors import OFAError
from ofa.image import open_picture
from ofa.model import EntailmentModel, Pair
from ofa.precision import GuardedModel, best_dtype, load_guarded

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit status."""
    options = _parser().parse_args(arguments)
    if (options.image is None) != (options.text is None):
        _parser().error("--image and --text go together")
    try:
        model = _load(options)
    except Exception as error:  # whatever stops the model from loading ends here, in one line
        print(f"python -m ofa: {type(error).__name__}: {error}", file=sys.stderr)
        return 2
    if options.image is not None:
        lines: Iterable[str] = [
            json.dumps({"image": options.image, "text": options.text, "premise": options.premise})
        ]
    else:
        lines = sys.stdin
    failed = False
    # A bar only where somebody watches it and the answers do not run through it.
    quiet = options.image is not None or not sys.stderr.isatty()
    for answer in tqdm(_answers(model, lines), unit=" pairs", file=sys.stderr, disable=quiet):
        failed |= "error" in answer
        print(json.dumps(answer, ensure_ascii=False), flush=True)
    with suppress(OSError):  # without room or right to write there, the next start is slower, that is all
        model.keep()
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m ofa",
        description="Does a picture show what a sentence says? Yes, No or Maybe.",
        epilog='Without --image, JSON lines {"image": FILE, "text": TEXT, "premise"?: TEXT} are read from '
        "standard input. Each answer is a JSON line with label and scores, or error.",
    )
    parser.add_argument("--model", required=True, help="a model folder, a ModelScope hub id, or 'demo'")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument(
        "--dtype",
        choices=("auto", *_DTYPES),
        default="auto",
        help="auto is bf16 where the hardware multiplies it, else fp32 (fp16 on older GPUs)",
    )
    parser.add_argument(
        "--precision-guard",
        choices=("on", "off"),
        default="on",
        help="decide close calls of a precision below fp32 in fp32",
    )
    parser.add_argument("--image", metavar="FILE", help="one picture")
    parser.add_argument("--text", help="the hypothesis about it")
    parser.add_argument("--premise", help="what is known beside the picture")
    return parser


def _load(options: argparse.Namespace) -> EntailmentModel | GuardedModel:
    # The one step upwards in this package: fetching models is the service's business.
    from service.hub import converted_cache, resolve
    from service.progress import terminal_bar

    with terminal_bar() as show:
        folder = resolve(options.model, progress=show)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = best_dtype(device) if options.dtype == "auto" else _DTYPES[options.dtype]
    load = (
        EntailmentModel.load if options.precision_guard == "off" or dtype is torch.float32 else load_guarded
    )
    return load(folder, device, dtype, converted_cache())


def _answers(model: EntailmentModel | GuardedModel, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    for line in lines:
        if line.strip():
            yield _answer(model, line)


def _answer(model: EntailmentModel | GuardedModel, line: str) -> dict[str, Any]:
    """The answer to one JSON line; an error is an answer too, so that one bad line ends nothing."""
    try:
        question = json.loads(line)
    except json.JSONDecodeError as error:
        return {"error": f"not a JSON object: {error}"}
    if not isinstance(question, dict) or not all(
        isinstance(question.get(key), str) for key in ("image", "text")
    ):
        return {"error": 'a JSON object with the texts "image" and "text" is needed'}
    if not isinstance(question.get("premise"), str | None):
        return {"error": '"premise" must be a text'}
    try:
        pair = Pair(open_picture(question["image"]), question["text"], question.get("premise"))
        scores = model.judge([pair])[0]
    except OFAError as error:
        return {"error": str(error)}
    label = max(scores, key=lambda name: scores[name])
    return {"label": label, "score": scores[label], "scores": scores}


if __name__ == "__main__":
    sys.exit(main())

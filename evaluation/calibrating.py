"""The command that calibrates a model: judge, fit, check, and write what helps."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np

from batch.journal import journal_of
from evaluation import calibration, judging, report
from evaluation.calibration import Sample
from evaluation.conditions import BY_NAME
from evaluation.examples import DataCode
from evaluation.results import Judgement
from service.contract.calibration import FILE, FORMAT
from service.contract.errors import InputError
from service.contract.request import LABELS

FEWEST: Final = 100  # pairs to fit with, and held out
#: Wrong verdicts to fit with. Without any, the likelihood is best at the lowest temperature.
FEWEST_ERRORS: Final = 10


def calibrate(options: argparse.Namespace) -> int:
    """Write a calibration if it helps; return the exit status. Raises ServiceError, OSError."""
    condition = BY_NAME[options.condition]
    with judging.asking(options) as asking:
        if asking.data.pairwise:
            raise _unsuitable("Pairwise data has no labels.", "Use data with labels.")
        asking.chosen([condition.name])
        path: Path = options.output or asking.folder / FILE
        journal = journal_of(path)
        judgement = asking.ask({condition: journal})
        journal.unlink()
    fitting, held_out = _halves(judgement, options.held_out)
    fitted = calibration.fit(fitting, options.accept_risk, options.review_risk, asking.weights_sha256)
    checked = calibration.check(held_out, fitted)
    document = {
        "format": FORMAT,
        "weights_sha256": fitted.weights_sha256,
        "temperature": fitted.temperature,
        "accept": fitted.accept,
        "review": fitted.review,
        "made": int(time.time()),
        "data": {"name": options.data.name, "sha256": asking.data_sha256, "condition": condition.name},
        "risks": {"accept": options.accept_risk, "review": options.review_risk},
        "pairs": {
            "fitted": len(fitting.truth),
            "held_out": len(held_out.truth),
            "bad": len(judgement.bad),
        },
        **checked,
    }
    print(_text(document))
    if not calibration.improves(checked):
        print("Not written: the NLL does not fall, or the ECE rises.")
        return 1
    report.write_whole(path, json.dumps(document, indent=2) + "\n", mode=0o644)
    print(f"Written to {path}")
    return 0


def _halves(judgement: Judgement, held_out: float) -> tuple[Sample, Sample]:
    """Return the pairs to fit with and those held out. Raises InputError if they show too little."""
    (condition,) = judgement.answers
    if not judgement.judged:
        raise InputError(
            "No pair could be judged.", code=DataCode.NOTHING_JUDGED, remedy="Evaluate the data to see why."
        )
    pictures = [judgement.data.examples[position].row.image for position in judgement.judged]
    truth = np.array([LABELS.index(label) for label in judgement.truth()])
    halves = calibration.split(Sample(pictures, truth, judgement.scores(condition)), held_out)
    counts = [len(half.truth) for half in halves]
    if min(counts) < FEWEST:
        raise _unsuitable(
            f"There are {counts[0]} pairs to fit with and {counts[1]} held out; {FEWEST} of each are needed.",
            "Use more data.",
        )
    errors = int((halves[0].scores.argmax(axis=1) != halves[0].truth).sum())
    if errors < FEWEST_ERRORS:
        raise _unsuitable(
            f"Only {errors} of the verdicts to fit with are wrong; {FEWEST_ERRORS} are needed.",
            "Use more or harder data.",
        )
    return halves


def _text(document: Mapping[str, Any]) -> str:
    """Return the figures for people."""
    change, pairs = document["ece_change"], document["pairs"]
    lines = [
        f"Fitted on {pairs['fitted']} pairs, checked on {pairs['held_out']} held out; "
        f"{pairs['bad']} rows could not be judged.",
        "Temperature {temperature:.3f}, accept from {accept:.4f}, review from {review:.4f}".format(
            **document
        ),
        "NLL: {before:.4f} before, {after:.4f} after".format(**document["nll"]),
        "ECE: {before:.4f} before, {after:.4f} after; ".format(**document["ece"])
        + "change {value:+.4f}, 95 % interval {low:+.4f} to {high:+.4f}".format(**change),
    ]
    if document["accept"] >= calibration.NEVER:
        lines.append("Nothing is accepted: these pairs do not show a risk as low as --accept-risk.")
    for name, one in document["decisions"].items():
        errors = "" if one["error"] is None else ", errors {value:.1%} ({low:.1%} to {high:.1%})"
        lines.append(f"{name}: {one['share']:.1%} of the held-out pairs{errors.format(**one['error'] or {})}")
    return "\n".join(lines)


def _unsuitable(message: str, remedy: str) -> InputError:
    return InputError(message, code=DataCode.UNSUITABLE_DATA, remedy=remedy)

"""The commands: evaluate, compare, calibrate. Each prints its result and returns an exit status."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from batch.journal import journal_of
from evaluation import calibration, comparison, formats, plots, report
from evaluation.calibration import Sample
from evaluation.conditions import BY_NAME, Condition, possible
from evaluation.examples import DataCode, Dataset
from evaluation.judging import Asking
from evaluation.results import Judgement
from service.contract.calibration import FILE, FORMAT, Calibration
from service.contract.errors import InputError
from service.contract.request import LABELS
from service.settings import Settings

_FEWEST: int = 100  # pairs on either side of a calibration's split


def evaluate(options: argparse.Namespace) -> int:
    """Write a report with verdicts and plots. Raises ServiceError, OSError."""
    settings = _settings(options)
    with formats.opened(options.data, options.format, options.pictures, settings.max_bytes) as data:
        asking = Asking(settings, data, options.data, options.pictures)
        conditions = _chosen(options.conditions, data, asking)
        name = f"{options.data.stem}-{asking.facts()['name'].replace('/', '-')}"
        folder = options.output or Path("build", "evaluation", name)
        folder.mkdir(parents=True, exist_ok=True)
        journals = {one: folder / f"{one.name}.journal" for one in conditions}
        judgement = asking.ask(conditions, journals)
    document = judgement.report()
    document["data"] = {"name": options.data.name, "sha256": asking.data_sha256, **document["data"]}
    document |= {"model": asking.facts(), "seconds_a_pair": asking.seconds_a_pair}
    _write(folder, document, judgement)
    for journal in journals.values():
        journal.unlink(missing_ok=True)
    print(f"The report is in {folder}")
    return _status(document, options.min_accuracy)


def compare(first: Path, second: Path) -> int:
    """Print whether two models differ on the same data. Raises InputError."""
    for one in comparison.compare(first, second):
        print(one.line())
    return 0


def calibrate(options: argparse.Namespace) -> int:
    """Write a calibration if it helps. Raises ServiceError, OSError."""
    settings, condition = _settings(options), BY_NAME[options.condition]
    with formats.opened(options.data, options.format, options.pictures, settings.max_bytes) as data:
        if data.pairwise:
            raise _unsuitable("Pairwise data has no labels.", "Use data with labels.")
        asking = Asking(settings, data, options.data, options.pictures)
        _chosen([condition.name], data, asking)
        path = options.output or asking.folder / FILE
        journal = journal_of(path)
        judgement = asking.ask([condition], {condition: journal})
    fitting, held_out = calibration.split(_sample(judgement, condition), options.held_out)
    pairs = {"fitted": len(fitting.truth), "held_out": len(held_out.truth), "bad": len(judgement.bad)}
    if min(pairs["fitted"], pairs["held_out"]) < _FEWEST:
        raise _unsuitable(
            f"There are {pairs['fitted']} pairs to fit with and {pairs['held_out']} held out.",
            f"Use more data: {_FEWEST} of each are needed, and several hundred for low risks.",
        )
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
        "pairs": pairs,
        **checked,
    }
    print(_lines(document, fitted))
    journal.unlink(missing_ok=True)
    if not calibration.improves(checked):
        print("Not written: the likelihood does not improve, or the calibration error rises.")
        return 1
    _replace(path, json.dumps(document, indent=2) + "\n")
    print(f"Written to {path}")
    return 0


def _settings(options: argparse.Namespace) -> Settings:
    """Return the service's settings, so that both refuse the same input. Raises SettingsError."""
    given = [f"--{name}={getattr(options, name)}" for name in ("model", "device", "dtype")]
    return Settings.from_args(given, {}, prog="python -m evaluation")


def _chosen(names: list[str] | None, data: Dataset, asking: Asking) -> list[Condition]:
    """Return the conditions to ask under. Raises InputError."""
    allowed = possible(data, asking.model.takes_premise)
    chosen = allowed if names is None else [BY_NAME[name] for name in names]
    if not chosen or any(one not in allowed for one in chosen):
        raise _unsuitable(
            "A condition needs a premise that the data lacks or the model refuses, or leaves out one that it needs.",
            f"Possible here: {', '.join(one.name for one in allowed) or 'none'}.",
        )
    return chosen


def _write(folder: Path, document: Mapping[str, Any], judgement: Judgement) -> None:
    """Write verdicts, plots and report, the report last."""
    lines = (json.dumps(verdict) + "\n" for verdict in judgement.verdicts())
    _replace(folder / report.VERDICTS, "".join(lines))
    drawn = document["conditions"] and not judgement.data.pairwise
    names = plots.draw(document["conditions"], folder) if drawn else []
    text = report.markdown(document, names)
    _replace(folder / "report.md", text)
    _replace(folder / report.REPORT, json.dumps(document, indent=1) + "\n")
    print(text)


def _replace(path: Path, text: str) -> None:
    """Write the whole file or nothing."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)


def _status(document: Mapping[str, Any], min_accuracy: float | None) -> int:
    if not document["conditions"] or document["bad_rows"]:
        return 1
    reached = next(iter(document["conditions"].values()))["accuracy"]["value"]
    return int(min_accuracy is not None and reached < min_accuracy)


def _sample(judgement: Judgement, condition: Condition) -> Sample:
    if not judgement.judged:
        raise InputError(
            "No pair could be judged.", code=DataCode.NOTHING_JUDGED, remedy="Evaluate the data to see why."
        )
    pictures = [judgement.data.examples[position].row.image for position in judgement.judged]
    truth = calibration.np.array([LABELS.index(label) for label in judgement.truth()])
    return Sample(pictures, truth, judgement.scores(condition))


def _lines(document: Mapping[str, Any], fitted: Calibration) -> str:
    """Return the figures of a calibration for people."""
    change, pairs = document["ece_change"], document["pairs"]
    lines = [
        f"Fitted on {pairs['fitted']} pairs, checked on {pairs['held_out']} held out; "
        f"{pairs['bad']} could not be judged.",
        f"Temperature {fitted.temperature:.3f}, accept from {fitted.accept:.4f}, review from {fitted.review:.4f}",
        "NLL {before:.4f} before, {after:.4f} after".format(**document["nll"]),
        "ECE {before:.4f} before, {after:.4f} after; ".format(**document["ece"])
        + f"change {change['value']:+.4f}, 95 % interval {change['low']:+.4f} to {change['high']:+.4f}",
    ]
    if fitted.accept >= calibration.NEVER:
        lines.append("Nothing is accepted: these pairs do not show errors below --accept-risk.")
    for name, one in document["decisions"].items():
        error = one["error"]
        shown = (
            ""
            if error is None
            else f", errors {error['value']:.1%} ({error['low']:.1%} to {error['high']:.1%})"
        )
        lines.append(f"{name}: {one['share']:.1%} of the held-out pairs{shown}")
    return "\n".join(lines)


def _unsuitable(message: str, remedy: str) -> InputError:
    return InputError(message, code=DataCode.UNSUITABLE_DATA, remedy=remedy)

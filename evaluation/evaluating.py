"""The commands that evaluate a model and compare two evaluations."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evaluation import comparison, judging, plots, report
from evaluation.results import Judgement


def evaluate(options: argparse.Namespace) -> int:
    """Write a report with verdicts and plots; return the exit status. Raises ServiceError, OSError."""
    with judging.asking(options) as asking:
        conditions = asking.chosen(options.conditions)
        name = f"{options.data.stem}-{asking.facts()['name'].replace('/', '-')}"
        folder: Path = options.output or Path("build", "evaluation", name)
        folder.mkdir(parents=True, exist_ok=True)
        journals = {one: folder / f"{one.name}.journal" for one in conditions}
        judgement = asking.ask(journals)
    document = judgement.report()
    document["data"] = {"name": options.data.name, "sha256": asking.data_sha256, **document["data"]}
    document |= {"model": asking.facts(), "seconds_a_pair": asking.seconds_a_pair}
    _write(folder, document, judgement)
    for journal in journals.values():
        journal.unlink(missing_ok=True)
    print(f"The report is in {folder}")
    return _status(document, options.min_accuracy)


def compare(first: Path, second: Path) -> int:
    """Print whether two models differ on the same data; return 0. Raises InputError."""
    for one in comparison.compare(first, second):
        print(one.line())
    return 0


def _write(folder: Path, document: Mapping[str, Any], judgement: Judgement) -> None:
    """Write verdicts and plots, then the report."""
    lines = (json.dumps(verdict) + "\n" for verdict in judgement.verdicts())
    report.write_whole(folder / report.VERDICTS, "".join(lines))
    drawn = document["conditions"] and not judgement.data.pairwise
    text = report.markdown(document, plots.draw(document["conditions"], folder) if drawn else [])
    report.write_whole(folder / "report.md", text)
    report.write_whole(folder / report.REPORT, json.dumps(document, indent=1) + "\n")
    print(text)


def _status(document: Mapping[str, Any], min_accuracy: float | None) -> int:
    if not document["conditions"] or document["bad_rows"]:
        return 1
    condition, figures = next(iter(document["conditions"].items()))
    reached = figures["accuracy"]["value"]
    if min_accuracy is None or reached >= min_accuracy:
        return 0
    message = f"The accuracy under {condition}, {reached:.4f}, is below --min-accuracy {min_accuracy:g}."
    print(message, file=sys.stderr)
    return 1

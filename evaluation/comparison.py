"""Compare two evaluations of the same data: McNemar's exact test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy.stats import binomtest

from evaluation.examples import DataCode
from evaluation.report import REPORT, VERDICTS
from service.contract.errors import InputError


@dataclass(frozen=True, slots=True)
class Comparison:
    """Of the pairs that both evaluations judged under a condition: how many were right in one only.
    ``p_value`` is the probability of a difference at least as large between equally good models."""

    condition: str
    pairs: int
    both_right: int
    only_first: int
    only_second: int
    p_value: float

    def line(self) -> str:
        """Return a line for people."""
        first, second = self.both_right + self.only_first, self.both_right + self.only_second
        return (
            f"{self.condition}: {self.pairs} pairs in both; right {first / self.pairs:.1%} and "
            f"{second / self.pairs:.1%}; only the first {self.only_first}, only the second "
            f"{self.only_second}; p = {self.p_value:.3g}"
        )


def compare(first: Path, second: Path) -> list[Comparison]:
    """Compare two reports by the ids of their pairs, for each condition that both have.

    Raises InputError: not a report, or the evaluations are not of the same data.
    """
    sides = [_verdicts(path) for path in (first, second)]
    found = [
        _compared(condition, sides[0][condition], sides[1][condition])
        for condition in sides[0]
        if condition in sides[1]
    ]
    if not found:
        raise _different("They have no condition in common.")
    return found


def _compared(condition: str, first: dict[str, Any], second: dict[str, Any]) -> Comparison:
    common = first.keys() & second.keys()
    if not common:
        raise _different("They have no pair in common.")
    if any(first[name]["digest"] != second[name]["digest"] for name in common):
        raise _different("Pairs of one id have different texts, pictures or labels.")
    outcomes = [(first[name]["right"], second[name]["right"]) for name in common]
    only = outcomes.count((True, False)), outcomes.count((False, True))
    p_value = float(binomtest(only[0], sum(only)).pvalue) if sum(only) else 1.0
    return Comparison(condition, len(common), outcomes.count((True, True)), *only, p_value)


def _verdicts(path: Path) -> dict[str, dict[str, Any]]:
    """Return the verdicts beside a report, by condition and id."""
    folder = path if path.is_dir() else path.parent
    found: dict[str, dict[str, Any]] = {}
    try:
        names = json.loads((folder / REPORT if path.is_dir() else path).read_text(encoding="utf-8"))
        for name in names["conditions"]:
            found[name] = {}
        with (folder / VERDICTS).open(encoding="utf-8") as lines:
            for line in lines:
                verdict = json.loads(line)
                if "right" in verdict:
                    found[verdict["condition"]][verdict["id"]] = verdict
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            "The report or its verdicts cannot be read.",
            code=DataCode.NOT_A_REPORT,
            remedy=f"Pass a {REPORT} with its {VERDICTS} beside it.",
        ) from error
    return found


def _different(why: str) -> InputError:
    return InputError(
        f"The evaluations are not of the same data. {why}",
        code=DataCode.DIFFERENT_DATA,
        remedy="Evaluate both models on the same file.",
    )

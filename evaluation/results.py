"""From answers to a report: which pairs count, their verdicts, and the figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from evaluation import figures
from evaluation.conditions import Condition
from evaluation.examples import Dataset, Example
from service.contract.request import LABELS

FORMAT: Final = 1
Answers = Mapping[int, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Judgement:
    """The examples of a dataset with their answers under some conditions.

    ``judged`` holds the positions of examples that have a verdict under every condition, so that the figures
    of all conditions are of the same pairs.
    """

    data: Dataset
    answers: Mapping[Condition, Answers]
    judged: Sequence[int]
    skipped: Mapping[str, int]
    bad: Sequence[Mapping[str, Any]]

    @classmethod
    def of(cls, data: Dataset, answers: Mapping[Condition, Answers]) -> Judgement:
        """Sort the examples into judged, skipped and bad. ``answers`` are in the public form, by the numbers
        of ``conditions.rows``."""
        judged, bad = [], []
        skipped: Counter[str] = Counter()
        for position, example in enumerate(data.examples):
            if example.skip is not None:
                skipped[example.skip] += 1
            elif (problem := _problem(position, example, answers)) is not None:
                bad.append({"id": example.id, "line": example.row.number, **problem})
            else:
                judged.append(position)
        return cls(data, answers, judged, dict(sorted(skipped.items())), bad)

    def verdicts(self) -> Iterator[dict[str, Any]]:
        """Yield the verdicts for ``verdicts.jsonl``, by condition, in the order of the data."""
        for condition, answers in self.answers.items():
            for position in self.judged:
                example = self.data.examples[position]
                yield {
                    "condition": condition.name,
                    "id": example.id,
                    "line": example.row.number,
                    "digest": example.digest,
                    **_verdict(example, answers[2 * position], answers.get(2 * position + 1)),
                }

    def report(self) -> dict[str, Any]:
        """Return the figures of each condition and the counts; without verdict there are no conditions."""
        counts = dict(sorted(Counter(one["code"] for one in self.bad).items()))
        data = {
            "format": self.data.form,
            "pairwise": self.data.pairwise,
            "rows": len(self.data.examples),
            "judged": len(self.judged),
            "skipped": self.skipped,
            "bad": counts,
        }
        conditions = {condition.name: self._figures(condition) for condition in self.answers if self.judged}
        return {"format": FORMAT, "data": data, "conditions": conditions, "bad_rows": list(self.bad)}

    def truth(self) -> list[str]:
        """Return the correct labels of the judged pairs."""
        return [self.data.examples[position].label or "" for position in self.judged]

    def scores(self, condition: Condition, foil: bool = False) -> figures.Array:
        """Return the scores of the judged pairs, or of their foils: (pairs, 3), in the order of LABELS."""
        answers = self.answers[condition]
        rows = (answers[2 * position + foil]["scores"] for position in self.judged)
        return np.array([[row[label] for label in LABELS] for row in rows])

    def _figures(self, condition: Condition) -> dict[str, Any]:
        if self.data.pairwise:
            yes = LABELS.index("Yes")
            sides = [self.scores(condition, foil)[:, yes] for foil in (False, True)]
            return figures.of_pairwise(*sides) | self._categories(sides[0] > sides[1])
        truth, scores = self.truth(), self.scores(condition)
        right = np.array([LABELS[best] for best in scores.argmax(axis=1)]) == np.array(truth)
        return figures.of_verdicts(truth, scores) | self._categories(right)

    def _categories(self, right: figures.Array) -> dict[str, Any]:
        names = np.array([self.data.examples[position].category for position in self.judged])
        found = {
            str(name): {
                "pairs": int((names == name).sum()),
                "accuracy": figures.proportion(int(right[names == name].sum()), int((names == name).sum())),
            }
            for name in sorted(set(names.tolist()) - {""})
        }
        return {"categories": found}


def _problem(position: int, example: Example, answers: Mapping[Condition, Answers]) -> dict[str, str] | None:
    """Return code and message of what prevents a verdict under some condition."""
    if (error := example.row.error) is not None:
        return {"code": str(error.code), "error": error.sentence}
    numbers = [2 * position] if example.foil is None else [2 * position, 2 * position + 1]
    for found in answers.values():
        for number in numbers:
            if "error" in found[number]:
                return {"code": str(found[number]["code"]), "error": str(found[number]["error"])}
    return None


def _verdict(example: Example, answer: Mapping[str, Any], foil: Mapping[str, Any] | None) -> dict[str, Any]:
    if foil is not None:
        yes = [answer["scores"]["Yes"], foil["scores"]["Yes"]]
        return {"yes": yes, "right": yes[0] > yes[1]}
    return {
        "gold": example.label,
        "label": answer["label"],
        "score": answer["score"],
        "scores": answer["scores"],
        "right": answer["label"] == example.label,
    }

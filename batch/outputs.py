"""Write results: CSV that a spreadsheet can open safely, and JSON lines.

An *answer* is the public form of a verdict (``Verdict.as_dict``), or ``reason``, ``code`` and ``error``.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from service.contract.request import LABELS

#: A spreadsheet takes a cell that begins so for a formula.
_FORMULA: Final = re.compile(r"[=+\-@\t\r\n＝＋－＠]")
_NUMBER: Final = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?", re.ASCII)
_ANSWER: Final = ("label", "score", "scores", "reason", "code", "error", "calibrated", "decision")


class CsvResults:
    """Lines of CSV: the list's own columns, then label, score, score_yes, score_no, score_maybe, with a
    calibration calibrated_yes, calibrated_no, calibrated_maybe and decision, then code and error.

    A name that the list already has gets the prefix ``ofa_``. Numbers have a point.
    """

    def __init__(self, columns: Sequence[str], delimiter: str = ",", *, calibrated: bool = False) -> None:
        self._columns = columns
        self._delimiter = delimiter
        self._calibrated = calibrated

    def header(self) -> str:
        """The first line with its line end."""
        added = ["label", "score", *(f"score_{name.lower()}" for name in LABELS)]
        if self._calibrated:
            added += [*(f"calibrated_{name.lower()}" for name in LABELS), "decision"]
        renamed = _renamed([*added, "code", "error"], self._columns)
        return self._line([*self._columns, *renamed.values()])

    def line(self, fields: Mapping[str, Any], number: int, answer: Mapping[str, Any]) -> str:
        """The line of a row, whose ``number`` begins the text of its error."""
        scores, calibrated = answer.get("scores") or {}, answer.get("calibrated") or {}
        judged = answer.get("reason") is None
        cells = [fields.get(name, "") for name in self._columns]
        cells += [answer["label"], _figure(answer["score"])] if judged else ["", ""]
        cells += [_figure(scores.get(name)) for name in LABELS]
        if self._calibrated:
            cells += [*(_figure(calibrated.get(name)) for name in LABELS), answer.get("decision") or ""]
        error = answer.get("error") or answer.get("code")
        cells += ["", ""] if judged else [answer.get("code") or "", f"line {number}: {error}"]
        return self._line(cells)

    def _line(self, cells: Sequence[object]) -> str:
        line = io.StringIO()
        csv.writer(line, delimiter=self._delimiter).writerow([_cell(cell) for cell in cells])
        return line.getvalue().removesuffix("\r\n") + "\n"  # with "\n" as its own, csv would not quote "\r"


class JsonResults:
    """JSON lines: ``line``, the row's own fields, then the answer, renamed as in ``CsvResults``."""

    def __init__(self, columns: Sequence[str]) -> None:
        self._names = _renamed(("line", *_ANSWER), columns)

    def line(self, fields: Mapping[str, Any], number: int, answer: Mapping[str, Any]) -> str:
        named = {self._names.get(name, name): value for name, value in answer.items()}
        # Escaped line separators, since some readers split at them; lone surrogates are not UTF-8.
        line = json.dumps({self._names["line"]: number, **fields, **named}, ensure_ascii=False)
        line = line.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
        return line.encode("utf-8", "backslashreplace").decode("utf-8") + "\n"


def safe(cell: str) -> str:
    """Return ``cell`` with an apostrophe before what a spreadsheet would compute; numbers stay numbers."""
    return f"'{cell}" if _FORMULA.match(cell) and not _NUMBER.fullmatch(cell) else cell


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"


def _cell(value: object) -> str:
    """The text of a cell: without null bytes and lone surrogates, which no CSV can hold."""
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)
    return safe(text.replace("\0", "").encode("utf-8", "replace").decode("utf-8"))


def _renamed(names: Sequence[str], taken: Sequence[str]) -> dict[str, str]:
    """Names for what is added beside the list's own columns."""
    renamed = {}
    for name in names:
        found = name
        while found in taken:
            found = f"ofa_{found}"
        renamed[name] = found
    return renamed

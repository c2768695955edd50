"""Write results: CSV that a spreadsheet can open safely, and JSON lines.

An *answer* is the public form of a verdict (``Verdict.as_dict``), or ``reason``, ``code`` and ``error``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class CsvResults:
    """Lines of CSV: the list's own columns, then label, score, score_yes, score_no, score_maybe,
    (calibrated_yes, calibrated_no, calibrated_maybe, decision,) code and error. A name that the list already
    has gets the prefix ``ofa_``."""

    def __init__(self, columns: Sequence[str], delimiter: str = ",", *, calibrated: bool = False) -> None:
        raise NotImplementedError

    def header(self) -> str:
        """The first line with its line end."""
        raise NotImplementedError

    def line(self, fields: Mapping[str, Any], number: int, answer: Mapping[str, Any]) -> str:
        """The line of a row, whose ``number`` begins the text of its error."""
        raise NotImplementedError


class JsonResults:
    """JSON lines: ``line``, the row's own fields, then the answer, renamed as in ``CsvResults``."""

    def __init__(self, columns: Sequence[str]) -> None:
        raise NotImplementedError

    def line(self, fields: Mapping[str, Any], number: int, answer: Mapping[str, Any]) -> str:
        raise NotImplementedError

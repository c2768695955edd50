"""The finished rows of a batch as text: JSON lines and CSV."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from batch.outputs import CsvResults
from batch.records import Batch, Result
from service.contract.causes import Outcome, RowCode


def answer_of(result: Result) -> Mapping[str, Any]:
    """Return the public form of its verdict, or why it has none."""
    if result.answer is not None:
        return result.answer
    reason = result.code if result.code in ("timeout", "error") else Outcome.INVALID
    if result.code == RowCode.CRASHED:
        reason = Outcome.ERROR
    return {"reason": str(reason), "code": result.code, "error": result.error}


class JsonLines:
    """Makes JSON lines, the verdict's members beside those that identify the row."""

    media_type = "application/x-ndjson"

    def __call__(self, results: Sequence[Result]) -> str:
        text = "".join(json.dumps(self._line(one), ensure_ascii=False) + "\n" for one in results)
        return text.replace("\u2028", "\\u2028").replace(
            "\u2029", "\\u2029"
        )  # some readers split lines there

    def _line(self, result: Result) -> dict[str, Any]:
        return {
            "row": result.position,
            "line": result.line,
            "id": result.id,
            "text": result.text,
            "image": result.image,
            **({"label": None, "score": None, "scores": None} if result.answer is None else {}),
            **answer_of(result),
        }


class CsvLines:
    """Makes lines of CSV in the form of the list, the head before the first."""

    media_type = "text/csv; charset=utf-8"

    def __init__(self, batch: Batch, *, calibrated: bool) -> None:
        self._csv = CsvResults(batch.columns, batch.delimiter, calibrated=calibrated)
        self._head = self._csv.header()

    def __call__(self, results: Sequence[Result]) -> str:
        head, self._head = self._head, ""
        return head + "".join(self._csv.line(one.fields, one.line, answer_of(one)) for one in results)

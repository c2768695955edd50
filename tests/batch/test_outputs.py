"""Results: CSV for spreadsheets, JSON lines for programs."""

from __future__ import annotations

import csv
import io
import json

import pytest

from batch.outputs import CsvResults, JsonResults, safe

ANSWER = {"label": "Yes", "score": 0.9, "scores": {"Yes": 0.9, "No": 0.06, "Maybe": 0.04}, "reason": None}
CALIBRATED = {**ANSWER, "calibrated": {"Yes": 0.7, "No": 0.2, "Maybe": 0.1}, "decision": "review"}
FAILED = {"reason": "invalid", "code": "no_image", "error": "There is no such picture file."}


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_what_a_spreadsheet_would_compute_gets_an_apostrophe(start: str) -> None:
    cell = f"{start}cmd|'/c calc'!A0"
    results = CsvResults(["image", cell], ";")
    text = results.header() + results.line({"image": cell, cell: "x"}, 2, ANSWER)
    (header, line) = csv.reader(io.StringIO(text, newline=""), delimiter=";")
    assert (header[1], line[0]) == (f"'{cell}", f"'{cell}")


@pytest.mark.parametrize("cell", ["-5", "+1", "-0.5", "-1e-7", "+49,5", "5", "", "a=b", "1-2"])
def test_numbers_and_plain_text_stay(cell: str) -> None:
    assert safe(cell) == cell


@pytest.mark.parametrize("cell", ["-5-3", "+1+cmd", "-", "=5", "--5", "-1e"])
def test_what_only_looks_like_a_number_does_not(cell: str) -> None:
    assert safe(cell) == f"'{cell}"


def test_a_null_byte_cannot_hide_a_formula() -> None:
    results = CsvResults(["a"])
    assert results.line({"a": "\0=1"}, 2, ANSWER).startswith("'=1,")


def test_the_columns_are_the_list_s_own_and_the_answer() -> None:
    results = CsvResults(["image", "label"], "\t", calibrated=True)
    assert results.header().rstrip("\n").split("\t") == [
        *("image", "label", "ofa_label", "score", "score_yes", "score_no", "score_maybe"),
        *("calibrated_yes", "calibrated_no", "calibrated_maybe", "decision", "code", "error"),
    ]
    line = results.line({"image": "a", "label": "No"}, 2, CALIBRATED).rstrip("\n").split("\t")
    assert line == [
        *("a", "No", "Yes", "0.900000", "0.900000", "0.060000", "0.040000"),
        *("0.700000", "0.200000", "0.100000", "review", "", ""),
    ]
    failed = results.line({"image": "a"}, 7, FAILED).rstrip("\n").split("\t")
    assert failed[:11] == ["a", *[""] * 10]
    assert failed[11] == "no_image"
    assert failed[12].startswith("line 7: ")


def test_cells_survive_a_reader() -> None:
    cells = ['a"b', "c,d", "e\nf", "g\rh", "i\r\nj", "  k  ", "红"]
    results = CsvResults([str(number) for number in range(len(cells))])
    text = results.line(dict(zip(map(str, range(len(cells))), cells, strict=True)), 2, ANSWER)
    (line,) = csv.reader(io.StringIO(text, newline=""))
    assert line[: len(cells)] == cells


def test_json_lines_keep_types_and_do_not_hide_own_fields() -> None:
    results = JsonResults(["image", "id", "label"])
    text = results.line({"image": "a", "id": 7, "label": "\u2028\ud800"}, 3, ANSWER)
    assert text.count("\n") == len(text.splitlines()) == 1
    text.encode("utf-8")
    answer = json.loads(text)
    assert list(answer) == ["line", "image", "id", "label", "ofa_label", "score", "scores", "reason"]
    assert (answer["line"], answer["id"], answer["ofa_label"]) == (3, 7, "Yes")

"""The record of a run, across kills and changes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from batch.journal import Journal, RunError

RUN = {"list": "a", "model": "b", "options": {"dtype": "fp32"}}
ANSWER = {"label": "Yes", "score": 0.9}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "out.csv.journal"


def code_of(path: Path, run: Mapping[str, Any] = RUN) -> str:
    with pytest.raises(RunError) as caught:
        Journal(path, run).close()
    return caught.value.code


def filled(path: Path, count: int = 3) -> bytes:
    with Journal(path, RUN) as journal:
        for number in range(count):
            journal.add(number, {**ANSWER, "number": number})
    return path.read_bytes()


def test_what_was_recorded_is_found_again(path: Path) -> None:
    filled(path)
    with Journal(path, RUN) as journal:
        assert (len(journal), 2 in journal, 3 in journal) == (3, True, False)
        journal.add(3, {"error": "x" * 5_000})
        assert [journal.read(number).get("number") for number in range(3)] == [0, 1, 2]
        assert journal.read(3) == {"error": "x" * 5_000}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_torn_at_any_byte_keeps_the_whole_lines(path: Path) -> None:
    whole = filled(path)
    head = whole.index(b"\n") + 1
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        with Journal(path, RUN) as journal:
            kept = max(0, whole[:cut].count(b"\n") - 1)
            assert len(journal) == kept, cut
            journal.add(9, ANSWER)
        assert len(path.read_bytes().splitlines()) == kept + 2
        assert path.read_bytes().startswith(whole[:head])


def test_a_tail_of_zeros_is_dropped(path: Path) -> None:
    """As some file systems leave it after a power failure."""
    path.write_bytes(filled(path) + b"\0" * 100)
    with Journal(path, RUN) as journal:
        assert len(journal) == 3
    assert b"\0" not in path.read_bytes()


@pytest.mark.parametrize("what", list(RUN))
def test_a_change_is_refused(what: str, path: Path) -> None:
    before = filled(path)
    assert code_of(path, {**RUN, what: "other"}) == f"{what}_changed"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "content", [b"my notes", b'{"a": 1}\n', b"\n", b"x" * 99_999, b'{"ofa_journal": 1, broken\n']
)
def test_a_foreign_file_is_left_alone(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    assert code_of(path) == "journal_unreadable"
    assert path.read_bytes() == content


def test_one_process_at_a_time(path: Path) -> None:
    with Journal(path, RUN):
        assert code_of(path) == "run_in_progress"
    Journal(path, RUN).close()


def test_a_line_of_the_journal_is_json(path: Path) -> None:
    lines = filled(path).splitlines()
    assert [json.loads(line).get("row") for line in lines] == [None, 0, 1, 2]

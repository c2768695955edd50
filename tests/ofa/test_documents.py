"""Untrusted documents are read within limits or refused with a ValueError."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ofa import documents


def test_what_is_within_the_bounds_is_read_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('{"é": [1, -2.5, true, null, "x"]}', "utf-8")
    assert documents.read_json(path) == {"é": [1, -2.5, True, None, "x"]}
    assert documents.read_text(path, path.stat().st_size) == path.read_text("utf-8")


@pytest.mark.parametrize(
    "make",
    [
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
        lambda path: path.write_bytes(b"x" * 101),
        lambda path: path.write_bytes(b"caf\xe9"),
    ],
    ids=["pipe", "device", "large", "latin-1"],
)
def test_anything_but_a_small_regular_text_file_is_refused(
    make: Callable[[Path], object], tmp_path: Path
) -> None:
    make(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"not|larger"):
        documents.read_text(tmp_path / "a.json", 100)


@pytest.mark.parametrize("depth", [documents.MAX_DEPTH + 1, 900, 100_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_nesting_is_bounded_whether_or_not_it_ends(depth: int, opening: str, closing: str) -> None:
    for text in (opening * depth + "1" + closing * depth, opening * depth):
        with pytest.raises(ValueError, match=r"nested|not JSON"):
            documents.parse(text)


def test_nesting_within_the_bound_is_read() -> None:
    documents.parse("[" * documents.MAX_DEPTH + "]" * documents.MAX_DEPTH)


@pytest.mark.parametrize(
    ("text", "value"), [("9" * 18, 10**18 - 1), ("1" + "0" * 18, 1e18), ("-" + "9" * 5_000, -math.inf)]
)
def test_a_whole_number_of_any_length_is_a_number(text: str, value: float) -> None:
    found = documents.parse(text)
    assert (found, type(found)) == (value, type(value))


def test_a_message_quotes_nothing_of_the_content() -> None:
    with pytest.raises(ValueError, match="not JSON") as caught:
        documents.parse('{"a": secret}')
    assert "secret" not in str(caught.value)

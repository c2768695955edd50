"""Two evaluations of the same data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from evaluation.__main__ import main
from evaluation.comparison import compare
from service.contract.errors import InputError

Rights = Sequence[bool]


def write(folder: Path, right: Mapping[str, bool], condition: str = "picture", digest: str = "d") -> Path:
    """Write what an evaluation leaves of its pairs."""
    folder.mkdir()
    lines = (
        {"condition": condition, "id": name, "digest": digest, "right": one} for name, one in right.items()
    )
    (folder / "verdicts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "report.json").write_text(json.dumps({"conditions": {condition: {}}}))
    return folder / "report.json"


def outcomes(right: str) -> dict[str, bool]:
    return {str(position): letter == "r" for position, letter in enumerate(right)}


def test_mcnemar_s_test_is_exact(tmp_path: Path) -> None:
    first = write(tmp_path / "a", outcomes("rrrr" + "r" + "wwwwww"))
    second = write(tmp_path / "b", outcomes("rrrr" + "w" + "rrrrrr"))
    (found,) = compare(first, second)
    assert (found.pairs, found.both_right, found.only_first, found.only_second) == (11, 4, 1, 6)
    assert found.p_value == pytest.approx(2 * (1 + 7) / 2**7)


def test_equal_models_do_not_differ(tmp_path: Path) -> None:
    first, second = (write(tmp_path / name, outcomes("rrw")) for name in ("a", "b"))
    assert compare(first, second)[0].p_value == 1.0


def test_only_pairs_that_both_judged_count(tmp_path: Path) -> None:
    first = write(tmp_path / "a", {"x": True, "y": True})
    second = write(tmp_path / "b", {"y": False, "z": True})
    assert (compare(first, second)[0].pairs, compare(first, second)[0].only_first) == (1, 1)


@pytest.mark.parametrize(
    "other",
    [
        {"right": {"0": True}, "digest": "other"},
        {"right": {"7": True}},
        {"right": {"0": True}, "condition": "text"},
    ],
    ids=["content", "ids", "conditions"],
)
def test_evaluations_of_different_data_are_not_compared(tmp_path: Path, other: dict) -> None:
    first, second = write(tmp_path / "a", {"0": True}), write(tmp_path / "b", **other)
    with pytest.raises(InputError) as refused:
        compare(first, second)
    assert refused.value.code == "different_data"


def test_something_else_than_a_report_is_refused(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("[]")
    with pytest.raises(InputError) as refused:
        compare(tmp_path / "report.json", tmp_path / "report.json")
    assert refused.value.code == "not_a_report"


def test_the_command_compares_reports_or_their_folders(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = write(tmp_path / "a", outcomes("rrrr")), write(tmp_path / "b", outcomes("rrrw"))
    assert main(["--compare", str(first), str(second.parent)]) == 0
    assert "only the first 1, only the second 0" in capsys.readouterr().out
    assert main(["--compare", str(first), str(tmp_path / "gone.json")]) == 2

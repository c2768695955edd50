"""Rows to verdicts with a fake model: grouping, batches, errors of single rows."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from PIL import Image

from batch.judging import Judge, Judged
from batch.pictures import FolderPictures
from batch.rows import Row
from service.contract.calibration import Calibration
from service.contract.errors import DeviceLost, InputError, OutOfMemory
from service.contract.protocols import CancelPoint
from service.contract.request import Pair
from service.intake.readers import Readers
from service.settings import Settings
from tests.fakes import YES, FakePredictor
from tests.reading import Make, make_readers

__all__ = ["make_readers"]


class Batches(FakePredictor):
    """Keeps the batches; fails on the hypotheses in ``bad``."""

    def __init__(self, bad: Mapping[str, Exception] | None = None) -> None:
        super().__init__()
        self.batches: list[list[tuple[int, str]]] = []
        self.bad = bad or {}
        self.language = None

    def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
        self.batches.append([(id(pair.image), pair.hypothesis) for pair in pairs])
        for pair in pairs:
            if pair.hypothesis in self.bad:
                raise self.bad[pair.hypothesis]
        return [YES for _ in pairs]


def row(number: int, image: str = "0.png", text: str | None = None, error: InputError | None = None) -> Row:
    return Row(number, image, text or f"text {number}", None, None, {}, error)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(4):
        Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    return tmp_path


def judged(
    rows: Sequence[Row], model: FakePredictor, readers: Readers, folder: Path, **options: int
) -> list[Judged]:
    judge = Judge(model, Settings(**options), readers)  # type: ignore[arg-type]
    return list(judge.judge(iter(rows), FolderPictures(folder, 1 << 20)))


def codes(found: Sequence[Judged]) -> dict[int, str | None]:
    return {one.row.number: one.answer().get("code") for one in found}


def test_rows_of_one_picture_share_its_pixels_and_a_batch(folder: Path, make_readers: Make) -> None:
    model = Batches()
    rows = [row(number, f"{number % 3}.png") for number in range(30)]
    found = judged(rows, model, make_readers(count=2), folder, max_batch=10)
    assert sorted(one.row.number for one in found) == list(range(30))
    assert {one.answer()["label"] for one in found} == {"Yes"}
    assert [len(batch) for batch in model.batches] == [10, 10, 10]
    assert [len({image for image, _ in batch}) for batch in model.batches] == [1, 1, 1]


def test_batches_grow_while_they_are_fast(folder: Path, make_readers: Make) -> None:
    model = Batches()
    rows = [row(number, f"{number % 4}.png", f"t{number}") for number in range(64)]
    for number, one in enumerate(rows):  # no two neighbours share a picture's spelling
        rows[number] = Row(one.number, "./" * number + one.image, one.text, None, None, {})
    judged(rows, model, make_readers(count=2), folder)
    assert [len(batch) for batch in model.batches] == [8, 16, 32, 8]


def test_an_error_is_of_one_row(folder: Path, make_readers: Make) -> None:
    refused = InputError("Wrong.", code="premise_refused")
    model = Batches({"text 5": refused, "text 6": RuntimeError("boom")})
    rows = [
        *(row(0), row(1, "absent.png"), row(2, "bad.png"), row(3, text="\u200b"), row(4), row(5), row(6)),
        *(row(7, error=InputError("Bad.", code="malformed")), row(8, "data:x"), row(9, text="x" * 9_000)),
    ]
    found = judged(rows, model, make_readers(count=2), folder)
    assert codes(found) == {
        0: None,
        1: "no_image",
        2: "not_an_image",
        3: "no_text",
        4: None,
        5: "premise_refused",
        6: "error",
        7: "malformed",
        8: "image_elsewhere",
        9: "text_too_long",
    }
    reasons = {one.row.number: one.answer()["reason"] for one in found}
    assert (reasons[4], reasons[5], reasons[6]) == (None, "invalid", "error")
    assert "boom" not in str([one.answer() for one in found])


def test_out_of_memory_makes_batches_smaller(folder: Path, make_readers: Make) -> None:
    class Small(Batches):
        def judge(self, pairs: Sequence[Pair], cancel_point: CancelPoint) -> Sequence[Mapping[str, float]]:
            super().judge(pairs, cancel_point)
            if len(pairs) > 4:
                raise OutOfMemory("full")
            return [YES for _ in pairs]

    model = Small()
    rows = [row(number, "./" * number + "0.png") for number in range(40)]
    found = judged(rows, model, make_readers(count=2), folder, max_batch=8)
    assert set(codes(found).values()) == {None}
    assert len(found) == 40
    assert [len(batch) for batch in model.batches] == [8, *[4] * 10]


def test_a_lost_device_ends_the_run(folder: Path, make_readers: Make) -> None:
    with pytest.raises(DeviceLost):
        judged([row(0)], Batches({"text 0": DeviceLost("lost")}), make_readers(count=1), folder)


def test_pictures_are_decoded_ahead_but_not_the_whole_list(folder: Path, make_readers: Make) -> None:
    taken = 0

    def rows() -> Iterator[Row]:
        nonlocal taken
        for number in range(5_000):
            taken += 1
            yield row(number, "./" * (number % 50) + "0.png")

    judge = Judge(Batches(), Settings(max_batch=4), make_readers(count=2))
    results = judge.judge(rows(), FolderPictures(folder, 1 << 20))
    next(results)
    assert taken <= 1024
    results.close()  # type: ignore[attr-defined]
    assert not [one for one in threading.enumerate() if one.name.startswith("pictures")]


def test_a_calibration_is_applied(folder: Path, make_readers: Make) -> None:
    calibration = Calibration(2.0, 0.99, 0.5, "0" * 64)
    judge = Judge(Batches(), Settings(), make_readers(count=1), calibration)
    (one,) = judge.judge([row(0)], FolderPictures(folder, 1 << 20))
    assert one.answer()["decision"] in ("accept", "review", "reject")
    assert set(one.answer()["calibrated"]) == {"Yes", "No", "Maybe"}

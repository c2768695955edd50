"""Formats that are lists of rows: SNLI-VE's JSON lines, e-SNLI-VE's CSV, and lists of one's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from batch.lists import open_list
from batch.rows import Columns, Row
from evaluation.examples import DataCode, Example, Skip, bad, label_of
from service.contract.errors import InputError

#: Columns with the correct label, by preference.
_LABEL_COLUMNS: Final = ("gold_label", "label")
_HEAD: Final = 1 << 20  # bytes in which the names of the fields are looked up


def snli_ve(path: Path, folder: Path) -> Iterator[Example]:
    """Read SNLI-VE's JSON lines. Raises ListError.

    Fields by necla-ml/SNLI-VE, vet/tools/snli_ve_generator.py: SNLI's own (``pairID``, ``gold_label``,
    ``sentence1``, the caption, and ``sentence2``, the hypothesis) and ``Flickr30K_ID``, without suffix; in
    the first release (snli_ve_parser.py) ``Flikr30kID``.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD)
    image = "Flikr30kID" if b'"Flikr30kID"' in head else "Flickr30K_ID"
    premise = "sentence1" if b'"sentence1"' in head else None
    yield from _rows(path, "data.jsonl", Columns(image, "sentence2", premise, "pairID"))


def e_snli_ve(path: Path, folder: Path) -> Iterator[Example]:
    """Read e-SNLI-VE's CSV. Raises ListError.

    Columns by maximek3/e-ViL, data/esnlive_test.csv: an index without a name, ``pairID``, ``Flickr30kID``
    with its suffix, ``hypothesis``, ``gold_label``, ``explanation``. It has no caption.
    """
    yield from _rows(path, "data.csv", Columns(image="Flickr30kID", text="hypothesis", id="pairID"))


def _rows(path: Path, name: str, columns: Columns) -> Iterator[Example]:
    with open_list(path, name, columns) as rows:
        for row in rows:
            image = row.image if not row.image or row.image.endswith(".jpg") else f"{row.image}.jpg"
            yield labelled(replace(row, image=image))


def labelled(row: Row) -> Example:
    """Return the row with the label of its label column."""
    written = next((row.fields[name] for name in _LABEL_COLUMNS if row.fields.get(name)), None)
    category = str(row.fields.get("category") or "")
    if row.error is not None:
        return Example(row, category=category)
    if written is None:
        return bad(
            row,
            InputError(
                "The row has no label.",
                code=DataCode.MISSING_FIELD,
                remedy="Add a column label: Yes, No or Maybe.",
            ),
        )
    if str(written).strip() == "-":
        return Example(row, skip=Skip.NO_GOLD_LABEL)
    try:
        return Example(row, label_of(written), category=category)
    except InputError as error:
        return bad(row, error)

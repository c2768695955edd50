"""Benchmarks that pair a right caption with a wrong one: SugarCrepe, VALSE and FOIL, JSON documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from batch.rows import Row
from evaluation.examples import DataCode, Example, Skip, bad
from ofa import documents
from service.contract.errors import InputError

MAX_DOCUMENT: Final = 1 << 30  # bytes; FOIL's training file has 60 million


def read(path: Path) -> object:
    """Parse the document. Raises InputError."""
    try:
        return documents.read_json(path, MAX_DOCUMENT)
    except (OSError, ValueError) as error:
        raise InputError(
            "The data is not readable JSON.", code=DataCode.UNREADABLE_DATA, remedy="Fetch the file again."
        ) from error


def sugar_crepe(path: Path, folder: Path) -> Iterator[Example]:
    """Read SugarCrepe. Raises InputError.

    Fields by RAIVNLab/sugar-crepe, main_eval.py and data/*.json: an object of ``{"filename", "caption",
    "negative_caption"}`` by number. The pictures are COCO's val2017.
    """
    for number, (name, entry) in enumerate(_entries(path), 1):
        yield _example(number, name, entry, "filename", "negative_caption")


def valse(path: Path, folder: Path) -> Iterator[Example]:
    """Read VALSE. Raises InputError.

    Fields by Heidelberg-NLP/VALSE, README.md: an object of ``{"dataset", "image_file", "caption", "foil",
    "linguistic_phenomena", "mturk": {"caption", "foil", "other"}}`` by id. Only foils for which at least two
    of three annotators chose the caption are valid. The pictures come from several data sets: each in
    ``folder``, or in its subfolder named by ``dataset``.
    """
    for number, (name, entry) in enumerate(_entries(path), 1):
        example = _example(number, name, entry, "image_file", "foil", folder)
        votes = _mapping(_mapping(entry).get("mturk")).get("caption", 0)
        unsure = example.row.error is None and not (isinstance(votes, int) and votes >= 2)
        yield Example(example.row, skip=Skip.NOT_VALIDATED) if unsure else example


def foil(path: Path, folder: Path) -> Iterator[Example]:
    """Read FOIL. Raises InputError.

    Fields by the readers of foilv1.0_test_2017.json (foilUnitn.github.io): COCO's form, ``images`` of
    ``{"id", "file_name"}`` and ``annotations`` of ``{"id", "foil_id", "image_id", "caption", "foil"}``.
    Annotations with one ``id`` are one right caption (``"foil": false``) and its wrong ones; each wrong one
    is a pair.
    """
    document = _mapping(read(path))
    files = {str(image.get("id")): image.get("file_name") for image in _mappings(document.get("images"))}
    annotations = list(enumerate(_mappings(document.get("annotations")), 1))
    right = {str(one.get("id")): one.get("caption") for _, one in annotations if one.get("foil") is False}
    paired = {str(one.get("id")) for _, one in annotations if one.get("foil") is True}
    for number, one in annotations:
        group = str(one.get("id"))
        if one.get("foil") is False and group in paired:
            continue
        wrong = one.get("caption") if one.get("foil") is True else None
        picture = files.get(str(one.get("image_id")))
        entry = {"image": picture, "caption": right.get(group), "foil": wrong}
        yield _example(number, str(one.get("foil_id", group)), entry, "image", "foil")


def _example(
    number: int, name: str, entry: object, image: str, foil: str, folder: Path | None = None
) -> Example:
    fields = _mapping(entry)
    texts = [fields.get(key) for key in (image, "caption", foil)]
    picture, caption, wrong = (text if isinstance(text, str) else "" for text in texts)
    if folder is not None and isinstance(source := fields.get("dataset"), str):
        inside = f"{source}/{picture}"
        picture = inside if picture and (folder / inside).exists() else picture
    row = Row(number, picture, caption, None, name, {})
    if not (picture and caption and wrong):
        return bad(
            row,
            InputError(
                "The entry has no picture, no caption or no counterpart.",
                code=DataCode.NO_COUNTERPART if picture else DataCode.MISSING_FIELD,
                remedy="Fetch the file again.",
            ),
        )
    return Example(row, foil=wrong, category=str(fields.get("linguistic_phenomena") or ""))


def _entries(path: Path) -> Sequence[tuple[str, object]]:
    document = read(path)
    if isinstance(document, list):
        return [(str(number), entry) for number, entry in enumerate(document)]
    return [(str(name), entry) for name, entry in _mapping(document).items()]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> Sequence[Mapping[str, Any]]:
    return [_mapping(one) for one in value] if isinstance(value, list) else []

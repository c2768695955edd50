"""The formats of labelled data, and which one a file has."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from batch.lists import open_list
from batch.pictures import FolderPictures, Pictures, ZipPictures
from evaluation.examples import DataCode, Dataset, Example, with_own_ids
from evaluation.formats import lists, pairwise
from evaluation.formats.ofa_tsv import EncodedPictures
from ofa import documents
from service.contract.errors import InputError

_Reader = Callable[[Path, Path], Iterator[Example]]
_LISTS: Final[Mapping[str, _Reader]] = {"snli-ve": lists.snli_ve, "e-snli-ve": lists.e_snli_ve}
_PAIRWISE: Final[Mapping[str, _Reader]] = {
    "sugarcrepe": pairwise.sugar_crepe,
    "valse": pairwise.valse,
    "foil": pairwise.foil,
}
FORMS: Final = (*_LISTS, "ofa", "list", *_PAIRWISE)
_HEAD: Final = 1 << 20  # bytes read to recognise a format


@contextmanager
def opened(path: Path, form: str | None, folder: Path | None, max_bytes: int) -> Iterator[Dataset]:
    """Read labelled data.

    Args:
        form: one of FORMS; None to recognise it.
        folder: where its pictures are; None for the folder of the data.
        max_bytes: largest picture.

    Raises:
        InputError: the data as a whole cannot be read.
    """
    form = form or detect(path)
    folder = path.parent if folder is None else folder
    pictures: Pictures = FolderPictures(folder, max_bytes)
    if form == "list":
        with open_list(path, path.name) as rows:
            found = with_own_ids(lists.labelled(row) for row in rows)
            if rows.archive is not None:
                pictures = ZipPictures(rows.archive, max_bytes, rows.folder)
            yield Dataset(form, found, pictures)
    elif form == "ofa":
        encoded = EncodedPictures(path, max_bytes)
        yield Dataset(form, with_own_ids(encoded.examples()), encoded)
    elif form in _PAIRWISE:
        yield Dataset(form, with_own_ids(_PAIRWISE[form](path, folder)), pictures, pairwise=True)
    else:
        yield Dataset(form, with_own_ids(_LISTS[form](path, folder)), pictures)


def detect(path: Path) -> str:
    """Return the format by the fields that the file has. Raises InputError."""
    head = b""
    try:
        if path.is_file():
            with path.open("rb") as file:
                head = file.read(_HEAD)
    except OSError as error:
        raise InputError(
            "The data cannot be read.",
            code=DataCode.UNREADABLE_DATA,
            remedy="Check its name and permissions.",
        ) from error
    first = head.split(b"\n", 1)[0]
    columns = first.split(b"\t")
    if len(columns) >= 3 and len(columns[2]) > 100 and b" " not in columns[2]:
        return "ofa"
    if b"gold_label" in first and b"Flickr30kID" in first and not first.startswith(b"{"):
        return "e-snli-ve"
    if head.lstrip()[:1] in (b"{", b"["):
        return _of_json(path, head)
    return "list"


def _of_json(path: Path, head: bytes) -> str:
    """Tell SNLI-VE's lines, of which some may be damaged, from a list's and from the documents."""
    for line in head.splitlines()[:10]:
        try:
            entry = documents.parse(line.decode("utf-8-sig"))
        except ValueError:
            continue
        if isinstance(entry, dict) and "sentence2" in entry:
            return "snli-ve"
    if path.suffix.lower() == ".jsonl":
        return "list"
    document = pairwise.read(path)
    entries = list(document.values()) if isinstance(document, dict) else document
    entry = next((one for one in entries if isinstance(one, dict)), {}) if isinstance(entries, list) else {}
    if isinstance(document, dict) and "annotations" in document:
        return "foil"
    if "negative_caption" in entry:
        return "sugarcrepe"
    if "image_file" in entry and "foil" in entry:
        return "valse"
    raise InputError(
        "The format of the data is unknown.", code=DataCode.UNKNOWN_FORMAT, remedy=f"Pass --format: {FORMS}."
    )

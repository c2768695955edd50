"""Pictures with a text file each, as they are written for training: ``name.jpg`` and ``name.txt``."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from batch.rows import Row
from service.contract.causes import InputCode
from service.contract.errors import InputError

PICTURES: Final = (
    *(".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".avif"),
    *(".heic", ".heif"),
)
COLUMNS: Final = ("image", "text")
MAX_TEXT: Final = 1 << 16  # bytes of a text file

Read = Callable[[str], bytes]


def names_in(folder: Path) -> list[str]:
    """Return the files in a folder and below, as sorted names with "/"; not those that begin with a dot."""
    found: list[str] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        relative = Path(place).relative_to(folder)
        found += [(relative / name).as_posix() for name in files if not name.startswith(".")]
    return sorted(found)


def has_pairs(names: Sequence[str]) -> bool:
    stems = {posixpath.splitext(name)[0] for name in names if name.lower().endswith(".txt")}
    return any(name.lower().endswith(PICTURES) and posixpath.splitext(name)[0] in stems for name in names)


def rows(names: Sequence[str], read: Read) -> Iterator[Row]:
    """Rows in the order of ``names``: one for each line of a picture's text that is not blank.

    A picture without a text, and a text without a picture, are rows with an error.
    """
    texts = {posixpath.splitext(name)[0]: name for name in names if name.lower().endswith(".txt")}
    number = 0
    for name in names:
        stem, suffix = posixpath.splitext(name)
        if suffix.lower() not in PICTURES:
            continue
        for text, error in _texts(texts.get(stem), read):
            number += 1
            yield Row(number, name, text, None, None, {"image": name, "text": text}, error)
    pictured = {posixpath.splitext(name)[0] for name in names if name.lower().endswith(PICTURES)}
    for stem, name in texts.items():
        if stem not in pictured:
            number += 1
            error = InputError(
                "There is no picture beside this text file.",
                code=InputCode.NO_IMAGE,
                remedy="Give both the same name.",
            )
            yield Row(number, "", "", None, None, {"image": "", "text": name}, error)


def _texts(name: str | None, read: Read) -> list[tuple[str, InputError | None]]:
    """The lines of a text file; one empty text with its error if there is none."""
    try:
        if name is None:
            raise _no_text("There is no text file beside the picture.")
        lines = [line.strip() for line in _decoded(read(name)).splitlines()]
        if not any(lines):
            raise _no_text("The text file beside the picture is empty.")
    except InputError as error:
        return [("", error)]
    return [(line, None) for line in lines if line]


def _decoded(data: bytes) -> str:
    for encoding in ("utf-8-sig", "gb18030"):
        try:
            return data.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise _no_text("The text file beside the picture is not in UTF-8.")


def _no_text(message: str) -> InputError:
    return InputError(
        message, code=InputCode.NO_TEXT, remedy="Write the sentence into a text file of the same name."
    )


def reader_of(folder: Path) -> Read:
    """Return a function that reads a text file of ``folder``. Raises InputError: ``no_text``."""

    def read(name: str) -> bytes:
        try:
            with open(folder / name, "rb", opener=_without_waiting) as file:
                data: bytes = file.read(MAX_TEXT + 1)
        except OSError as error:
            raise _no_text("The text file beside the picture cannot be read.") from error
        if len(data) > MAX_TEXT:
            raise InputError(
                f"The text file has more than {MAX_TEXT} bytes.",
                code=InputCode.TEXT_TOO_LONG,
                remedy="Shorten it.",
            )
        return data

    return read


def _without_waiting(path: str, flags: int) -> int:
    """Open without blocking on a named pipe."""
    return os.open(path, flags | os.O_NONBLOCK)

"""OFA's own SNLI-VE files: tab-separated lines that hold the pictures in base64.

Columns by OFA-Sys/OFA, README.md ("Visual Entailment") and data/mm_data/snli_ve_dataset.py: uniq-id,
image-id, picture, hypothesis, caption, label. Without the caption there are five.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from batch.rows import Row
from evaluation.examples import DataCode, Example, Skip, bad, label_of
from service.contract.causes import InputCode
from service.contract.errors import InputError

MAX_LINE: Final = 64 << 20  # bytes


class EncodedPictures:
    """The pictures of the file, read when they are needed: each line repeats its picture, and together they
    may not fit into memory. Thread-safe once the file has been read.

    Args:
        path: the file.
        max_bytes: largest picture.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._spans: dict[str, tuple[int, int]] = {}

    def open(self, image: str) -> bytes:
        """Return the picture with this image-id. Raises InputError, OSError."""
        start, length = self._spans[image]
        if length > self._max_bytes * 4 // 3 + 4:
            raise InputError(
                "The picture is too large.",
                code=InputCode.IMAGE_BYTES_TOO_LARGE,
                remedy="Send a smaller one.",
            )
        with self._path.open("rb") as file:
            file.seek(start)
            encoded = file.read(length)
        try:
            return urlsafe_b64decode(encoded)
        except binascii.Error as error:
            raise InputError(
                "The picture is not in base64.",
                code=InputCode.IMAGE_UNREADABLE,
                remedy="Fetch the file again.",
            ) from error

    def examples(self) -> Iterator[Example]:
        """Read the file."""
        number = start = 0
        with self._path.open("rb") as file:
            while line := file.readline(MAX_LINE):
                number += 1
                if line.strip():
                    yield self._example(number, start, line)
                start += len(line)

    def _example(self, number: int, start: int, line: bytes) -> Example:
        name, image, *rest = [*line.rstrip(b"\r\n").split(b"\t"), b"", b""]
        encoded, texts = rest[0], rest[1:-2]
        row = Row(number, _text(image), _text(texts[0]) if texts else "", None, _text(name), {})
        if len(texts) not in (2, 3):
            return bad(row, _malformed())
        if len(texts) == 3:
            row = replace(row, premise=_text(texts[1]))
        self._spans.setdefault(row.image, (start + len(name) + len(image) + 2, len(encoded)))
        if _text(texts[-1]).strip() == "-":
            return Example(row, skip=Skip.NO_GOLD_LABEL)
        try:
            return Example(row, label_of(_text(texts[-1])))
        except InputError as error:
            return bad(row, error)


def _text(content: bytes) -> str:
    return content.decode("utf-8", "replace")


def _malformed() -> InputError:
    return InputError(
        "The line does not have five or six columns.",
        code=DataCode.MISSING_FIELD,
        remedy="Columns: uniq-id, image-id, picture in base64, hypothesis, caption (optional), label.",
    )

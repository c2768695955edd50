"""Read a zip that may be hostile, within limits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from batch.rows import LOCAL, Limits


class Archive:
    """A checked zip. Thread-safe. Close it after use.

    Raises ListError where it is opened: ``archive_unsafe``, ``archive_encrypted``, ``archive_too_large``,
    ``archive_unreadable``.
    """

    names: Sequence[str]  # of regular files in NFC with "/", without __MACOSX and dot files

    def __init__(self, source: Path | BinaryIO, limits: Limits = LOCAL) -> None:
        raise NotImplementedError

    def find_list(self) -> str | None:
        """Return the name of the list, None if there is none. Raises ListError: ``list_ambiguous``."""
        raise NotImplementedError

    def read(self, name: str, max_bytes: int) -> bytes:
        """Return a member. Raises KeyError, InputError: ``image_bytes_too_large``, ``image_unreadable``."""
        raise NotImplementedError

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

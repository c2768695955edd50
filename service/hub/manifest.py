"""The manifest of a fetched model: sizes, times and checksums of its files when they were last verified.

It is stored beside the snapshot, so that the snapshot matches the hub. Later starts use it to verify the
local copy without network.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

FORMAT = 1
_BLOCK = 4 << 20  # bytes hashed between ticks

Tick = Callable[[str, int], None]
"""Called with a file name and the number of bytes just hashed; may raise to stop."""


@dataclass(frozen=True)
class FileRecord:
    """One file: ``path`` relative to the snapshot with forward slashes, ``size`` in bytes."""

    path: str
    size: int
    sha256: str
    mtime_ns: int


@dataclass(frozen=True)
class Manifest:
    model: str
    revision: str
    endpoint: str
    files: tuple[FileRecord, ...]

    @classmethod
    def of(
        cls,
        folder: Path,
        names: Iterable[str],
        *,
        model: str,
        revision: str,
        endpoint: str,
        tick: Tick,
    ) -> Self:
        """Hash ``names`` in ``folder``. Raises OSError if one of them cannot be read."""
        return cls(model, revision, endpoint, tuple(_record(folder, name, tick) for name in sorted(names)))

    @classmethod
    def load(cls, path: Path) -> Self | None:
        """Read the manifest at ``path``; None if it is missing, damaged or of another format."""
        try:
            kept = json.loads(path.read_text("utf-8"))
            if kept["format"] != FORMAT:
                return None
            files = tuple(FileRecord(**entry) for entry in kept["files"])
            return cls(str(kept["model"]), str(kept["revision"]), str(kept["endpoint"]), files)
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def save(self, path: Path) -> None:
        """Write to ``path`` atomically."""
        temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                json.dump({"format": FORMAT, **asdict(self)}, stream, indent=1)
                stream.write("\n")
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)

    def examine(self, folder: Path, *, full: bool, tick: Tick) -> tuple[list[str], Self]:
        """Return the names of damaged files, and this manifest with the current times of the intact ones.

        A file with the recorded size and time counts as intact. A file whose time alone differs (a copied
        cache) is hashed, and with ``full`` every file is.
        """
        damaged: list[str] = []
        records: list[FileRecord] = []
        for known in self.files:
            found = _verified(folder, known, full, tick)
            records.append(found or known)
            if found is None:
                damaged.append(known.path)
        return damaged, type(self)(self.model, self.revision, self.endpoint, tuple(records))

    def checksum(self, folder: Path, path: Path) -> str | None:
        """The SHA-256 of ``path`` if it is listed here with its current size and time, else None."""
        for known in self.files:
            if folder / known.path == path:
                try:
                    status = path.stat()
                except OSError:
                    return None
                same = (status.st_size, status.st_mtime_ns) == (known.size, known.mtime_ns)
                return known.sha256 if same else None
        return None


def _record(folder: Path, name: str, tick: Tick) -> FileRecord:
    digest = hashlib.sha256()
    with (folder / name).open("rb") as stream:
        # Taken first, so that a write during hashing leaves a newer time and is detected.
        before = os.fstat(stream.fileno())
        while block := stream.read(_BLOCK):
            tick(name, len(block))
            digest.update(block)
    return FileRecord(name, before.st_size, digest.hexdigest(), before.st_mtime_ns)


def _verified(folder: Path, known: FileRecord, full: bool, tick: Tick) -> FileRecord | None:
    """The record of the file as it is now, or None if its content differs from ``known``."""
    try:
        status = (folder / known.path).stat()
        if status.st_size != known.size:
            return None
        if status.st_mtime_ns == known.mtime_ns and not full:
            return known
        found = _record(folder, known.path, tick)
    except OSError:
        return None
    return found if found.sha256 == known.sha256 else None

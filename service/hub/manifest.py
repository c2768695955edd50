"""The manifest of a fetched model: what its files were when the hub's checksums were last proven.

It lies beside the snapshot, not in it, so that the snapshot stays exactly what the hub holds. At a later
start it decides without any network whether the local copy is unharmed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

FORMAT = 1
_BLOCK = 4 << 20  # bytes hashed between two ticks

Tick = Callable[[str, int], None]
"""Told a file and how many more of its bytes have been hashed; may raise to stop."""


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
        """The manifest at ``path``; None if there is none that this version understands."""
        try:
            kept = json.loads(path.read_text("utf-8"))
            if kept["format"] != FORMAT:
                return None
            files = tuple(FileRecord(**entry) for entry in kept["files"])
            return cls(str(kept["model"]), str(kept["revision"]), str(kept["endpoint"]), files)
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def save(self, path: Path) -> None:
        """Write to ``path``, which holds at any moment the old manifest or the new one, never a part."""
        temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
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
        """Names of the damaged files, and this manifest with the times found on the unharmed ones.

        A file of the right size and time is believed. One whose time alone differs (a copied cache) is
        hashed, and so is every file when ``full``.
        """
        damaged: list[str] = []
        records: list[FileRecord] = []
        for known in self.files:
            found = _look(folder, known, full, tick)
            records.append(found or known)
            if found is None:
                damaged.append(known.path)
        return damaged, type(self)(self.model, self.revision, self.endpoint, tuple(records))

    def checksum(self, folder: Path, path: Path) -> str | None:
        """The SHA-256 of ``path``, if it is one of these files in ``folder`` and still as recorded."""
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
        # The time is taken first: a write during the hashing leaves a newer one behind and is noticed.
        before = os.fstat(stream.fileno())
        while block := stream.read(_BLOCK):
            tick(name, len(block))
            digest.update(block)
    return FileRecord(name, before.st_size, digest.hexdigest(), before.st_mtime_ns)


def _look(folder: Path, known: FileRecord, full: bool, tick: Tick) -> FileRecord | None:
    """What is there now if it is still the ``known`` content, else None."""
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

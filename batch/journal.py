"""The record of what has been judged, so that a run that is killed can be resumed.

A file beside the output that is only appended to: a line that describes the run, then one line for each row.
A kill can only tear the last line, which is dropped when the run is resumed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from service.contract.causes import RunCode
from service.contract.errors import ServiceError

_MAGIC: Final = b'{"ofa_journal": 1, '
_MAX_HEAD: Final = 1 << 16  # bytes of the first line
#: What must not change between a run and its resumption.
_CHANGED: Final = {
    "list": (RunCode.LIST_CHANGED, "The list has changed since the run began."),
    "model": (RunCode.MODEL_CHANGED, "The model is not the one that the run began with."),
    "options": (RunCode.OPTIONS_CHANGED, "The options are not those that the run began with."),
}


class RunError(ServiceError):
    """A run cannot start or continue as asked; the code is a RunCode."""

    def __init__(self, message: str, *, code: RunCode, remedy: str):
        super().__init__(message, code=code, remedy=remedy)


def journal_of(output: Path) -> Path:
    """Return the path of the journal of ``output``."""
    return output.with_name(output.name + ".journal")


class Journal:
    """The open journal of one run, locked against others. Close it after use.

    Args:
        path: created unless it exists.
        run: ``list``, ``model`` and ``options``, each as JSON; an existing journal must have the same.

    Raises RunError, OSError.
    """

    def __init__(self, path: Path, run: Mapping[str, Any]) -> None:
        self._path = path
        self._file = open(path, "a+b", buffering=0, opener=_private)  # noqa: SIM115  # closed by close()
        self._places: dict[int, int] = {}  # where the line of a row begins
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._end = self._read(run)
        except BaseException as error:
            self._file.close()
            if isinstance(error, BlockingIOError):
                raise RunError(
                    "Another process is writing this output.",
                    code=RunCode.RUN_IN_PROGRESS,
                    remedy="Wait for it, or choose another output.",
                ) from error
            raise

    def __contains__(self, number: object) -> bool:
        return number in self._places

    def __len__(self) -> int:
        """The number of rows judged."""
        return len(self._places)

    def add(self, number: int, answer: Mapping[str, Any]) -> None:
        """Record the answer to a row. Raises OSError."""
        self._places[number] = self._end
        self._append(json.dumps({"row": number, **answer}).encode() + b"\n")

    def read(self, number: int) -> dict[str, Any]:
        """Return the answer to a row. Raises KeyError, OSError."""
        self._file.seek(self._places[number])
        line = b""
        while not line.endswith(b"\n") and (block := self._file.read(1024)):
            line += block[: block.find(b"\n") + 1 or None]
        answer: dict[str, Any] = json.loads(line)
        del answer["row"]
        return answer

    def remove(self) -> None:
        """Delete the file, when the output is complete."""
        with suppress(FileNotFoundError):
            self._path.unlink()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _append(self, line: bytes) -> None:
        written = self._file.write(line)
        self._end += written
        if written < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _read(self, run: Mapping[str, Any]) -> int:
        """Check the first line or write it, find the rows, drop a torn last line; return the file's end."""
        self._end = 0
        self._file.seek(0)
        with open(self._file.fileno(), "rb", closefd=False) as lines:
            first = lines.readline(_MAX_HEAD)
            if not _MAGIC.startswith(first[: len(_MAGIC)]):
                raise _unreadable()
            if first.endswith(b"\n"):
                self._check(first, run)
                end = len(first)
                for line in lines:
                    number = _row_in(line)
                    if number is None:
                        break
                    self._places[number] = end
                    end += len(line)
                self._file.truncate(end)
                return end
        self._file.truncate(0)
        self._append(_MAGIC + json.dumps(run, sort_keys=True)[1:].encode() + b"\n")
        return self._end

    def _check(self, first: bytes, run: Mapping[str, Any]) -> None:
        try:
            before = json.loads(first)
        except ValueError as error:
            raise _unreadable() from error
        for name, (code, message) in _CHANGED.items():
            if before.get(name) != json.loads(json.dumps(run[name])):
                remedy = f"Use the same one, or delete {self._path.name} to judge every row again."
                raise RunError(message, code=code, remedy=remedy)


def _row_in(line: bytes) -> int | None:
    """The number of the row that a line records; None for a torn line."""
    if not line.endswith(b"\n"):
        return None
    try:
        number = json.loads(line)["row"]
    except (ValueError, TypeError, KeyError):
        return None
    return number if isinstance(number, int) else None


def _private(path: str, flags: int) -> int:
    """Open for this user alone."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def _unreadable() -> RunError:
    return RunError(
        "The file where the journal would be is not one of this program.",
        code=RunCode.JOURNAL_UNREADABLE,
        remedy="Choose another output.",
    )

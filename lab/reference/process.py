"""Start ModelScope in its own environment and ask it; lab.reference.child lists the operations."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab import ROOT
from service.inference.modelscope.process import ChildProcess

LOAD_SECONDS = 600.0
CALL_SECONDS = 300.0
CLOSE_SECONDS = 5.0


class ReferenceFailed(Exception):
    """An operation failed in ModelScope; the message is its own."""


class ReferenceProcess:
    """ModelScope in a child process; use as a context manager or call `close`."""

    def __init__(self, python: Path) -> None:
        self._child = ChildProcess([str(python), "-m", "lab.reference.child"], folder=ROOT)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._child.close(CLOSE_SECONDS)

    @property
    def pid(self) -> int:
        return self._child.pid

    def ask(self, op: str, **request: Any) -> dict[str, Any]:
        """Return the reply to one operation. Raises ReferenceFailed, ChildEnded, ChildSilent."""
        seconds = LOAD_SECONDS if op in ("load", "keys") else CALL_SECONDS
        reply = self._child.ask({"op": op, **request}, seconds)
        if not reply["ok"]:
            raise ReferenceFailed(reply["error"])
        return reply

    def load(self, folder: Path, device: str = "cpu", threads: int = 0) -> dict[str, Any]:
        """Load a model folder; 0 threads leaves their number to torch."""
        return self.ask("load", folder=str(folder), device=device, threads=threads)

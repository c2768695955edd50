"""Measure child processes from outside: memory, CPU time, exit."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Final

from lab import ROOT
from lab.bench.poller import ask

SAMPLE_SECONDS: Final = 0.01
END_SECONDS: Final = 60.0
_FIELDS: Final = ("RssAnon", "RssFile", "RssShmem")


class MemoryWatch:
    """Sample a process's peak RSS 100 times per second. Use as a context manager."""

    def __init__(self, pid: int) -> None:
        self._path = Path(f"/proc/{pid}/status")
        self._peak: dict[str, int] = dict.fromkeys(_FIELDS, 0)
        self._most = 0
        self.samples = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="memory", daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def as_dict(self) -> dict[str, float]:
        """Return MB at the moment of peak RSS, split into anonymous and memory-mapped pages; ``own_peak`` is
        the peak of the anonymous part."""
        own = self._peak["RssAnon"] + self._peak["RssShmem"]
        return {
            "resident_mb": round((own + self._peak["RssFile"]) / 1000),
            "own_mb": round(own / 1000),
            "mapped_files_mb": round(self._peak["RssFile"] / 1000),
            "own_peak_mb": round(self._most / 1000),
        }

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_SECONDS):
            try:
                lines = self._path.read_text(encoding="ascii").splitlines()
            except OSError:
                return
            now = {line.split(":")[0]: line.split()[1] for line in lines if line.startswith(_FIELDS)}
            found = {name: int(now.get(name, 0)) * 1024 // 1000 for name in _FIELDS}  # KiB to kB
            self._most = max(self._most, found["RssAnon"] + found["RssShmem"])
            if sum(found.values()) > sum(self._peak.values()):
                self._peak = found
            self.samples += 1


@contextmanager
def running(command: Sequence[str], scratch: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Run a child process; send SIGTERM at the end of the block, then SIGKILL."""
    with (scratch / "child.log").open("a", encoding="utf-8") as log:
        child = subprocess.Popen(
            list(command),
            cwd=ROOT,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.communicate(timeout=END_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def get(port: int, path: str) -> int | None:
    """Return the status of one answer; None when there is none."""
    try:
        return ask(port, path)
    except (OSError, HTTPException):
        return None


def wait_for(child: subprocess.Popen[str], port: int, path: str, seconds: float) -> float:
    """Return the seconds until ``path`` answers 200. Raises RuntimeError on timeout or exit."""
    began = time.monotonic()
    while (spent := time.monotonic() - began) < seconds:
        if get(port, path) == 200:
            return time.monotonic() - began
        if child.poll() is not None:
            raise RuntimeError(f"the process ended with {child.returncode} and was never healthy")
        time.sleep(0.02)
    raise RuntimeError(f"not healthy after {spent:.0f} s")


def warm(folder: Path) -> None:
    """Read a folder's files into the page cache."""
    for path in folder.rglob("*"):
        with suppress(OSError), path.open("rb") as file:
            while file.read(1 << 24):
                pass

"""Poll the health endpoints and record statuses and latencies."""

from __future__ import annotations

import json
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from http.client import HTTPException
from pathlib import Path
from typing import Any

ENDPOINTS = ("/livez", "/readyz", "/health/simple", "/startupz")
PATIENCE = 10.0


def fetch(url: str, patience: float = PATIENCE) -> tuple[int, bytes]:
    """Return status and body; status 0 without an answer in time."""
    try:
        try:
            with urllib.request.urlopen(url, timeout=patience) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()
    except (OSError, HTTPException):
        return 0, b""


class Watcher:
    """Poll every endpoint each ``period`` seconds while the context lasts. Each poll is a line of ``file``:
    Unix time, status and ms of each endpoint, RSS in MiB, queued requests, queue state."""

    def __init__(self, base: str, file: Path, period: float = 1.0) -> None:
        self._base = base
        self._file = file
        self._period = period
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watcher")
        self.statuses: dict[str, Counter[int]] = {path: Counter() for path in ENDPOINTS}
        self.seconds: dict[str, list[float]] = {path: [] for path in ENDPOINTS}
        self.memory: list[tuple[float, int]] = []  # (seconds since the start, RSS in bytes)
        self.unready = 0.0  # longest period in seconds without 200 from /health/simple
        self.latest: dict[str, Any] = {}

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._enough.set()
        self._thread.join()

    def _run(self) -> None:
        began = good = time.monotonic()
        with self._file.open("w", encoding="utf-8") as lines:
            lines.write(
                "unix\t" + "\t".join(f"{path}\tms" for path in ENDPOINTS) + "\trss_mib\twaiting\tstate\n"
            )
            while not self._enough.wait(self._period):
                columns = [self._ask(path) for path in ENDPOINTS]
                now = time.monotonic()
                good = now if columns[2].startswith("200") else good
                self.unready = max(self.unready, now - good)
                columns.append(self._sample(now - began))
                lines.write(f"{time.time():.1f}\t" + "\t".join(columns) + "\n")
                lines.flush()

    def _ask(self, path: str) -> str:
        asked = time.monotonic()
        status, _ = fetch(self._base + path)
        seconds = time.monotonic() - asked
        self.statuses[path][status] += 1
        self.seconds[path].append(seconds)
        return f"{status}\t{1000 * seconds:.0f}"

    def _sample(self, at: float) -> str:
        try:
            health = json.loads(fetch(self._base + "/health")[1])
        except ValueError:
            return "-\t-\t-"
        self.latest = health
        size = int(health["figures"]["process_bytes"])
        self.memory.append((at, size))
        return f"{size >> 20}\t{health['queue']['waiting']}\t{health['queue']['state']}"

"""Drive a cluster on loopback from outside: its start program, its processes, its port."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Final, NamedTuple

import psutil

from lab.faults.watcher import fetch
from lab.instances.instance import Instance

#: How Ray names its processes.
CONTROLLER: Final = "ray::ServeController"
PROXY: Final = "ray::ProxyActor"
START_SECONDS: Final = 150.0  # a bound for a failed run on a busy machine
INGRESS: Final = "ray::ServeReplica:ofa:api"


class Replica(NamedTuple):
    """A replica that the ingress sees; ``node`` is the address of its node."""

    pid: int
    ready: bool
    node: str


class Cluster(Instance):
    """The start program and all that it starts. Use it as a context manager, which kills them at the end."""

    def __init__(self, folder: Path, *arguments: str, **environment: str) -> None:
        super().__init__(folder, *arguments, interpreter=("-m",), program="cluster", environment=environment)
        self._seen: set[psutil.Process] = set()

    def __exit__(self, *_: object) -> None:
        self.find("")
        super().__exit__()
        for process in self._seen:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(list(self._seen), timeout=30)

    def find(self, title: str) -> list[int]:
        """Return the PIDs of its processes whose command line begins with ``title``."""
        found = []
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    self._seen.add(process)
                    if " ".join(process.cmdline()).startswith(title):
                        found.append(process.pid)
        return found

    def replicas(self) -> list[Replica]:
        """Ask the ingress for the replicas; empty without an answer."""
        try:
            seen = json.loads(fetch(f"{self.page}/health", 5)[1])["replicas"]
        except (ValueError, LookupError):
            return []
        return [Replica(one["pid"], one["ready"], one["node"]) for one in seen]

    def ready(self) -> set[int]:
        """Return the PIDs of the ready replicas."""
        return {one.pid for one in self.replicas() if one.ready}

    def wait_ready(self, count: int, without: Collection[int] = ()) -> set[int]:
        """Wait for exactly ``count`` ready replicas, none of ``without``; return their PIDs."""
        pids: set[int] = set()

        def ready() -> bool:
            nonlocal pids
            pids = self.ready()
            return len(pids) == count and pids.isdisjoint(without)

        self.wait_for(f"{count} ready replicas", ready, START_SECONDS)
        return pids

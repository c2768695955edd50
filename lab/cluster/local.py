"""Drive a cluster on loopback from outside: its start program, its processes, its port."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final, NamedTuple, Self

import psutil

from lab.faults.watcher import fetch
from lab.instances.instance import Instance

#: Its name begins a rolling update, see lab.cluster.program.
DEPLOY: Final = "deploy"
#: In the environment: how long a computation of lab.cluster.judges.SleepingJudge takes, in seconds.
SLEEP: Final = "SLEEP_SECONDS"
#: How Ray names its processes; STARTING ends the name of a replica or ingress that does not serve yet.
CONTROLLER: Final = "ray::ServeController"
PROXY: Final = "ray::ProxyActor"
INGRESS: Final = "ray::ServeReplica:visual-entailment:ingress"
STARTING: Final = ".initialize_and_get_metadata"
START_SECONDS: Final = 150.0  # a bound for a failed run on a busy machine


class Replica(NamedTuple):
    """A replica in its last report, which is ``age`` seconds old; ``node`` is the address of its node."""

    pid: int
    ready: bool
    node: str
    age: float


class Cluster(Instance):
    """The start program and all that it starts. Use it as a context manager, which kills them at the end."""

    def __init__(
        self,
        folder: Path,
        judge: str,
        replicas: int,
        *flags: str,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(
            folder,
            *(judge, str(replicas), "1", *flags),
            interpreter=("-m",),
            program="lab.cluster.program",
            environment=environment,
        )
        self._seen: set[psutil.Process] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.find("")
        super().__exit__()
        for process in self._seen:
            with contextlib.suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(list(self._seen), timeout=30)

    def find(self, title: str) -> list[int]:
        """Return the PIDs of its processes whose command line begins with ``title``, without replicas that
        are starting."""
        found = []
        with contextlib.suppress(psutil.Error):
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    self._seen.add(process)
                    line = " ".join(process.cmdline()).strip()
                    if line.startswith(title) and not line.endswith(STARTING):
                        found.append(process.pid)
        return found

    def order(self, kind: str, **more: object) -> None:
        """Order a fault from all replicas, or from one ``pid``; see lab.faults.inside."""
        part = self.run_dir / "fault.part"
        part.write_text(json.dumps({"kind": kind, **more}))
        part.replace(self.run_dir / "fault.json")

    def deploy(self, *flags: str) -> None:
        """Begin a rolling update to these flags."""
        part = self.run_dir / "deploy.part"
        part.write_text(json.dumps(flags))
        part.replace(self.run_dir / DEPLOY)

    @property
    def deployed(self) -> bool:
        return not (self.run_dir / DEPLOY).exists()

    def replicas(self) -> list[Replica]:
        """Ask the ingress for the replicas; empty without an answer."""
        try:
            seen = json.loads(fetch(f"{self.page}/health", 5)[1])["replicas"]
        except (ValueError, LookupError):
            return []
        return [Replica(one["pid"], one["ready"], one["node"], one["age_seconds"]) for one in seen]

    def waiting(self) -> int:
        """Return how many requests wait in the queues of all replicas."""
        targets = [one["targets"][0] for one in json.loads(fetch(f"{self.page}/targets")[1])]
        reports = [json.loads(fetch(f"http://{target}/health")[1]) for target in targets]
        return sum(report["queue"]["waiting"] for report in reports)

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

"""A start program for clusters with faults: python -m lab.cluster.program JUDGE REPLICAS CPUS [FLAG …]

JUDGE is a class of lab.cluster.judges. With RAY_ADDRESS in the environment it uses that cluster instead of
starting one. A file ``deploy`` in OFA_RUN_DIR, a JSON list of flags, deploys again with these flags (a
rolling update); it is removed at the end. SIGTERM ends the program, as ``python -m cluster``.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from cluster import local
from cluster.arguments import Arguments
from lab.cluster.local import DEPLOY


def main() -> None:
    replicas, cpus = int(sys.argv[2]), int(sys.argv[3])
    port, order = int(os.environ["OFA_PORT"]), Path(os.environ["OFA_RUN_DIR"]) / DEPLOY
    stop = threading.Event()

    def deploy(flags: list[str]) -> None:
        # Ray reads its settings from the environment when it is imported.
        from cluster.app import application
        from lab.cluster import judges

        judge = getattr(judges, sys.argv[1])
        arguments = Arguments.read({"replicas": replicas, "cpus": cpus, "flags": flags})
        local.deploy(arguments, port, lambda checked: application(checked, judge))

    with joined() if "RAY_ADDRESS" in os.environ else local.cluster(replicas * cpus + 1):
        signal.signal(signal.SIGTERM, lambda *_: stop.set())
        deploy(sys.argv[4:])
        while not stop.wait(local.POLL_SECONDS):
            if order.exists():
                deploy(json.loads(order.read_text(encoding="utf-8")))
                order.unlink()


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Use the cluster at RAY_ADDRESS."""
    import ray
    from ray import serve

    ray.init(log_to_driver=False, _node_ip_address=local.LOOPBACK)
    yield
    serve.shutdown()


if __name__ == "__main__":
    main()

"""Two guarded instances of the demo model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from lab.faults.service import Service
from lab.instances.balancers import Place

DRAIN_SECONDS = 5
FLAGS = ("--model", "demo", "--trusted-proxies", "127.0.0.1", "--drain-delay", str(DRAIN_SECONDS))
#: The guardian's default times, but that an instance counts as recovered early: it is then restarted at once.
SETTINGS = {"STABLE_PERIOD": 1}


@contextmanager
def two_instances(folder: Path) -> Iterator[list[Service]]:
    """Run instances 1 and 2; both are healthy."""
    with ExitStack() as stack:
        services = [
            stack.enter_context(
                Service(folder / f"{n}", *FLAGS, "--instance", f"{n}", plain=True, settings=SETTINGS)
            )
            for n in (1, 2)
        ]
        for service in services:
            service.start()
        for service in services:
            service.wait_until_healthy()
            service.wait_until_watched()
        yield services


def places(services: list[Service]) -> list[Place]:
    return [Place(service.port, service.health_port) for service in services]

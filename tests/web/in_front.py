"""The same page in front of an engine behind HAProxy: with PAGE_IN_FRONT set, tests.web.client.serving and
tests.service_process.running_service use it. tests/long/test_page_in_front.py sets it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from lab.instances.balancers import Place, haproxy
from lab.instances.instance import EXIT_SECONDS, ROOT, Instance
from lab.instances.ports import free_ports

VARIABLE: Final = "PAGE_IN_FRONT"


def wanted() -> bool:
    return bool(os.environ.get(VARIABLE))


def flags_of(page: Sequence[str]) -> list[str]:
    """Return the flags of a page over the scripted application without those of a model."""
    kept = list(page)
    while "--model" in kept:
        at = kept.index("--model")
        del kept[at : at + 2]
    return kept


@contextmanager
def scripted_engine(folder: Path, output: IO[bytes]) -> Iterator[str]:
    """Run the scripted engine behind HAProxy inside the context; yield HAProxy's address."""
    port, health_port = free_ports(2)
    command = [sys.executable, "-m", "tests.web.engine", str(port), str(health_port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT) as engine:
        try:
            with behind_haproxy(folder, Place(port, health_port)) as url:
                yield url
        finally:
            engine.kill()
            engine.wait(EXIT_SECONDS)


@contextmanager
def behind_haproxy(folder: Path, place: Place) -> Iterator[str]:
    """Run HAProxy before the instance at ``place``; nobody listens at the place of the second one."""
    balancing = folder / "haproxy"
    balancing.mkdir(exist_ok=True)
    nobody = Place(*free_ports(2))
    with haproxy(balancing, [place, nobody]) as balancer:
        balancer.wait_ready("1")
        yield balancer.page


@contextmanager
def page_of(folder: Path, *flags: str) -> Iterator[Instance]:
    """Run an engine with ``flags``, HAProxy, and a page in front inside the context."""
    with (
        Instance(folder / "engine", *flags, "--page", "off") as engine,
        behind_haproxy(folder, Place(engine.port, engine.health_port)) as url,
        Instance(folder / "page", "--engine", url, *flags_of(flags)) as page,
    ):
        yield page

"""Drive ``guardian.sh fleet``: a folder with several instances, their guardians, and the table of all."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from lab import ROOT
from lab.instances.guarded import PATIENCE, QUICK, Launch, kill_all, read_launches, wait_for
from lab.instances.ports import free_range


class Fleet:
    """A folder for at most ``most`` instances. Use it as a context manager, which kills them at the end."""

    def __init__(self, folder: Path, most: int, times: Mapping[str, str] = QUICK, **settings: object) -> None:
        self.folder = folder
        self.most = most
        self.port, self.health_port = free_range(most), free_range(most)
        for number in range(1, most + 1):
            (folder / str(number)).mkdir(parents=True)
        self.environment = {
            **os.environ,
            **times,
            "OFA_RUN_DIR": str(folder),
            "OFA_HOST": "127.0.0.1",
            "OFA_HEALTH_HOST": "127.0.0.1",
            "OFA_PORT": str(self.port),
            "OFA_HEALTH_PORT": str(self.health_port),
            **{name: str(value) for name, value in settings.items()},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for folder in (self.folder, *(self.folder / str(number) for number in range(1, self.most + 1))):
            kill_all(folder)

    def begin(self, *arguments: str, **settings: object) -> subprocess.Popen[str]:
        """Start a fleet command; its output is a pipe."""
        return subprocess.Popen(
            [ROOT / "guardian.sh", "fleet", *arguments],
            env={**self.environment, **{name: str(value) for name, value in settings.items()}},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def command(self, *arguments: str, **settings: object) -> tuple[int, str]:
        """Run a fleet command to its end; return its exit status and output."""
        with self.begin(*arguments, **settings) as running:
            try:
                output, _ = running.communicate(timeout=PATIENCE)
            except subprocess.TimeoutExpired:
                running.kill()
                raise
        return running.returncode, output

    def rows(self) -> list[dict[str, str]]:
        """The table of ``fleet status`` by its columns."""
        return table(self.command("status")[1])

    def wait(self, what: str, happened: Callable[[], Any]) -> None:
        wait_for(what, happened, lambda: self.command("status")[1])

    def launches(self, number: int) -> list[Launch]:
        return read_launches(self.folder / str(number))

    def environ(self, number: int) -> dict[str, str]:
        """The environment of an instance's latest process."""
        text = Path(f"/proc/{self.launches(number)[-1].pid}/environ").read_text()
        return dict(entry.split("=", 1) for entry in text.split("\0") if "=" in entry)

    def order(self, number: int, **orders: object) -> None:
        """Replace the orders for a stand-in instance."""
        part = self.folder / str(number) / "orders.part"
        part.write_text(json.dumps(orders))
        part.replace(part.with_name("orders.json"))

    def plan(self, number: int, *orders: dict[str, object]) -> None:
        """Set the orders of each launch in turn."""
        (self.folder / str(number) / "plan.json").write_text(json.dumps(orders))


def table(output: str) -> list[dict[str, str]]:
    """The rows of a table with a line of names above it; empty without one."""
    lines = [line.split() for line in output.splitlines()]
    if not lines or lines[0][0] != "INSTANCE":
        return []
    return [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]

"""Start a real cluster."""

from __future__ import annotations

from pathlib import Path

from lab.instances.instance import Instance

FLAGS = ("--model", "demo", "--threads", "1")


def start(run_dir: Path, replicas: int, *flags: str) -> Instance:
    """Start `python -m cluster` on the demo model, or with other ``flags``."""
    return Instance(run_dir, "cluster", "--replicas", f"{replicas}", "--", *FLAGS, *flags, program="-m")

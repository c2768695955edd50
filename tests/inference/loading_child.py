"""Loads model folders as the service does, each in a fork with a limit on memory and on processor time.

Run as a program: a line with a folder's path in, a line of JSON with what became of it out. torch is imported
once, before the forks, so that a folder costs a fraction of a second and a limit holds for the folder alone.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch  # noqa: F401  # before the forks

from ofa.model import EntailmentModel  # noqa: F401
from page import card
from service.contract.errors import ServiceError
from service.contract.events import Listener
from service.contract.status import Snapshot, Status
from service.hub import resolve as hub
from service.inference.loader import Loader
from service.inference.native import NativePredictor
from service.settings import Settings

MEMORY = 320 << 20  # bytes beyond what the interpreter with torch has; the demo model takes about 100 MB
SECONDS = 60  # of processor time: only against an endless loop


class Attempts(Listener):
    """Counts them."""

    def __init__(self) -> None:
        self.outcomes: list[str] = []

    def load_attempted(self, outcome: str, seconds: float) -> None:
        self.outcomes.append(outcome)


def load(folder: str) -> dict[str, Any]:
    """What the service finds: the error's class and exit code, the attempts, the card's examples."""
    attempts = Attempts()
    settings = Settings(model=folder, device="cpu", dtype="fp32")
    predictor = NativePredictor(device="cpu", dtype="fp32")
    status = Status(Snapshot(model="model", started_unix=0))
    found: dict[str, Any] = {"error": None, "exit": 0, "message": ""}
    try:
        found["examples"] = len(card.load(folder).examples)
        Loader(settings, predictor, status, hub.resolve, attempts).run()
    except ServiceError as error:
        message = f"{error.message} {error.remedy}"
        found |= {"error": type(error).__name__, "exit": int(error.exit_code), "message": message}
    return {**found, "attempts": attempts.outcomes}


def limited(folder: str, result: Path) -> None:
    """In the fork: load under the limits, and write down what came of it."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmData" in line]
    most = (int(line.split()[1]) << 10) + MEMORY
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    try:
        found = load(folder)
    except BaseException as error:
        found = {"error": f"UNMAPPED {type(error).__name__}", "exit": -1, "message": str(error)[:300]}
    result.write_text(json.dumps(found))


def main() -> None:
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as scratch:
            result = Path(scratch) / "result"
            child = os.fork()
            if not child:
                limited(line.strip(), result)
                os._exit(0)
            _, status = os.waitpid(child, 0)
            died = json.dumps({"error": f"DIED {status}", "exit": -1, "message": ""})
            print(result.read_text() if result.exists() else died, flush=True)


if __name__ == "__main__":
    main()

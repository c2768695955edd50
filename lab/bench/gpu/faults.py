"""Step 3: a full GPU, the return from the CPU, a real device-side assert, exit codes.

``as_promised`` says for each part whether the service kept its contract. Without a GPU the service still runs
through its start, requests and stop; the parts that need a GPU say so.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from lab import ROOT
from lab.bench.processes import running, wait_for
from lab.bench.sides import Subject
from lab.instances.ports import free_ports
from service.contract.causes import ExitCode
from service.contract.request import LABELS
from service.inference.modelscope.process import ChildProcess
from service.telemetry.logs import LOG_FILE

Reply = dict[str, Any]

SECONDS: Final = 60.0  # seconds for one event
EVENTS: Final = ("MEMORY |", "DEGRADED |", "TRIAL |", "PROMOTED |")
PATIENT: Final = {
    "OFA_TIMEOUT": "60",
    "OFA_PROBE_TIMEOUT": "60",
    "OFA_CONVERTED_CACHE": "off",
}
# Allocates the GPU's memory except for the given bytes, until end of input.
HOLD: Final = """
import sys, torch
held, size = [], 1 << 30
while size >= 1 << 21:
    try:
        if torch.cuda.mem_get_info()[0] - size < int(sys.argv[1]):
            raise torch.cuda.OutOfMemoryError
        held.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
    except torch.cuda.OutOfMemoryError:
        size //= 2
print(sum(map(len, held)), flush=True)
sys.stdin.read()
"""


def faults(subject: Subject) -> Iterator[dict[str, Any]]:
    """Yield the parts so far after each one; an exception in one does not skip the others."""
    found: dict[str, Any] = {}
    run_dir, card = subject.scratch / "service", subject.device.startswith("cuda")
    service = _service(subject, run_dir)
    parts: Mapping[str, Callable[[], Reply]] = {
        "request": partial(_loaded, service, subject.device),
        "stopped": partial(_ended, subject, ExitCode.ORDERLY),
        # Two cases: no room for a batch, no room at all.
        "crowded": partial(_exhausted, service, run_dir, subject.device, 256 << 20, 16),
        "full": partial(_exhausted, service, run_dir, subject.device, 0, 1),
        "assert": partial(_ended, subject, ExitCode.DEVICE_LOST),
    }
    try:
        for name, part in parts.items():
            needs = name in ("crowded", "full", "assert") and not card
            found[name] = {"needs": "a card"} if needs else _tried(part)
            yield found
    finally:
        service.close(5.0)


def _tried(part: Callable[[], Reply]) -> Reply:
    try:
        return part()
    except Exception as error:
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {str(error)[:200]}", "as_promised": False}


def _service(subject: Subject, run_dir: Path) -> ChildProcess:
    environment = {
        "OFA_MODEL": str(subject.folder),
        "OFA_DEVICE": subject.device,
        "OFA_RUN_DIR": str(run_dir),
        "PROBE_INTERVAL": "3600",  # no probe may consume a fault meant for a request
    }
    command = [sys.executable, "-m", "lab.bench.gpu.service"]
    return ChildProcess(command, folder=ROOT, environment={**os.environ, **PATIENT, **environment})


def _loaded(service: ChildProcess, device: str) -> Reply:
    loaded = service.ask({"op": "load"}, 2 * SECONDS)
    first = _judged(service, 1)
    return {"loaded": loaded, "first": first, "as_promised": _all_answered(first, device)}


def _judged(service: ChildProcess, count: int) -> Reply:
    began = time.monotonic()
    reply = service.ask({"op": "judge", "count": count}, 2 * SECONDS)
    return {**reply, "seconds": round(time.monotonic() - began, 2)}


def _all_answered(reply: Reply, *devices: str) -> bool:
    """Return whether every request got a verdict on one of ``devices``."""
    return all(label in LABELS and device in devices for label, device in reply["answers"])


def _exhausted(service: ChildProcess, run_dir: Path, device: str, left: int, count: int) -> Reply:
    """Send requests while all but ``left`` bytes are taken; then wait for the return to the GPU."""
    before = len(_memory_lines(run_dir))
    service.ask({"op": "empty"}, SECONDS)
    with _holding(left) as held:
        meanwhile = _judged(service, count)
        if fell := meanwhile["device"] == "cpu":
            _until(service, lambda state: any("TRIAL |" in line for line in _memory_lines(run_dir)[before:]))
    back = _until(service, lambda state: state["degraded"] is None)
    after = _judged(service, 1)
    answered = _all_answered(meanwhile, "cpu", device) and _all_answered(after, device)
    return {
        "held_bytes": held,
        "meanwhile": meanwhile,
        "seconds_until_back": back,
        "after": after,
        "log": _memory_lines(run_dir)[before:],
        "as_promised": answered and back is not None and (fell or left > 0),
    }


def _memory_lines(run_dir: Path) -> list[str]:
    lines = (run_dir / LOG_FILE).read_text("utf-8").splitlines()
    return [line for line in lines if any(event in line for event in EVENTS)]


@contextmanager
def _holding(left: int) -> Iterator[int]:
    command = [sys.executable, "-c", HOLD, str(left)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        yield int(process.stdout.readline())


def _until(service: ChildProcess, happened: Callable[[Reply], bool]) -> float | None:
    """Poll the state until ``happened``; return the seconds, or None on timeout."""
    began = time.monotonic()
    while (spent := time.monotonic() - began) < SECONDS:
        if happened(service.ask({"op": "state"}, SECONDS)):
            return round(spent, 2)
        time.sleep(0.1)
    return None


def _ended(subject: Subject, code: ExitCode) -> Reply:
    """Stop a healthy health_api.py by SIGTERM, or make it lose its CUDA context at the next probe."""
    run_dir, (port,) = subject.scratch / code.name, free_ports(1)
    command = [sys.executable, "lab/faults/inside.py", "health_api.py", "--model", str(subject.folder)]
    flags = [*("--device", subject.device), *("--health-host", "127.0.0.1"), *("--health-port", str(port))]
    environment = {**PATIENT, "OFA_RUN_DIR": str(run_dir), "PROBE_INTERVAL": "0.5"}
    with running([*command, *flags], subject.scratch, **environment) as child:
        wait_for(child, port, "/health/simple", 2 * SECONDS)
        if code is ExitCode.DEVICE_LOST:
            (run_dir / "fault.json").write_text('{"kind": "assert", "on": "cuda"}')
        else:
            child.terminate()
        left = child.wait(SECONDS)
    last = json.loads((run_dir / "last_exit.json").read_text())
    return {"exit_code": left, "last_exit": last["code"], "as_promised": left == last["code"] == code}

"""Start the service with faults injected at the lowest level: torch's CUDA functions and the network.

    python lab/faults/inside.py web_app.py --model demo …

The service itself is unchanged, including its mapping of foreign errors. Without CUDA a GPU is simulated:
torch reports one, and the network computes on the CPU. With CUDA the device and its errors are real: an
allocation of 1 PiB, an index out of range in a kernel.

``fault.json`` in the run directory selects a fault and may be replaced at any time: {"kind", "times" or
"seconds" (default: forever), "on": device, "pid": process, "for": duration in seconds}. ``FAULT`` in the
environment does the same at the start. ``LOAD_PAUSE``, ``RETRY_GPU_PAUSE`` and ``BASELINE_INTERVAL`` there
replace the constants of service.build. The next forward pass executes the fault:

    oom, assert   GPU out of memory; device-side assert
    need          allocates 4 GiB on a real GPU
    nan, memory   NaN scores; MemoryError
    stuck         never returns and ignores cancellation; with "for" it returns late
    slow          takes half a second longer
    gil           holds the GIL
    grow, swell   leaks 64 MiB; allocates 1 GiB for a moment
    deaf, orphan  ignores SIGTERM from then on; leaves a child in the process group
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import runpy
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  # after the path

from ofa.model import EntailmentModel  # noqa: E402

ORDER = Path(os.environ["OFA_RUN_DIR"]) / "fault.json"
GIB = 1 << 30
REAL = torch.cuda.is_available()
real_load: Any = EntailmentModel.__dict__["load"].__func__  # of the class method
real_judge = EntailmentModel.judge
leaked: list[bytearray] = []


class Order:
    """The selected fault, and whether it is still active."""

    def __init__(self) -> None:
        self.text = ""
        self.fault: dict[str, Any] = {}
        self.since = 0.0
        self.done = 0

    def kind(self, device: str) -> str:
        """Return the fault for this forward pass, or ""."""
        text = ORDER.read_text() if ORDER.exists() else os.environ.get("FAULT", "{}")
        if text != self.text:
            self.text, self.fault = text, json.loads(text)
            self.since, self.done = time.monotonic(), 0
        fault = self.fault
        if not fault or fault.get("on", device) != device or fault.get("pid", os.getpid()) != os.getpid():
            return ""
        if self.done >= fault.get("times", 1 << 60):
            return ""
        if time.monotonic() - self.since >= fault.get("seconds", 1 << 60):
            return ""
        self.done += 1
        return str(fault["kind"])


order = Order()


def judge(self: EntailmentModel, pairs: Any, cancel_point: Any = None) -> Any:
    kind = order.kind("cuda" if getattr(self, "on_gpu", self.device.type == "cuda") else "cpu")
    if kind in FAULTS:
        FAULTS[kind]()
    results = real_judge(self, pairs, cancel_point)
    return [dict.fromkeys(result, float("nan")) for result in results] if kind == "nan" else results


def out_of_memory() -> None:
    """Raise the real error of a real GPU, or the same error without one."""
    if REAL:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def need() -> None:
    torch.empty(4 * GIB, dtype=torch.uint8, device="cuda")


def device_assert() -> None:
    if REAL:
        torch.zeros(2, device="cuda")[torch.tensor([9], device="cuda")].cpu()
    raise RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")


def memory() -> None:
    raise MemoryError


def stuck() -> None:
    over = time.monotonic() + order.fault.get("for", 1 << 30)
    while time.monotonic() < over:
        time.sleep(0.1)


def slow() -> None:
    time.sleep(0.5)


def gil() -> None:
    ctypes.PyDLL(None).sleep(order.fault.get("for", 3600))  # PyDLL holds the GIL during the call


def grow() -> None:
    leaked.append(bytearray(os.urandom(1 << 20) * 64))


def swell() -> None:
    swollen = bytearray(os.urandom(1 << 20) * 1024)
    time.sleep(order.fault.get("for", 0))
    del swollen


def deaf() -> None:
    ctypes.CDLL(None).signal(signal.SIGTERM, 1)  # SIG_IGN; Python could set it only from the main thread


def orphan() -> None:
    child = subprocess.Popen(["sleep", "3600"])
    (ORDER.parent / "orphan").write_text(str(child.pid))


FAULTS = {
    "oom": out_of_memory,
    "need": need,
    "assert": device_assert,
    "memory": memory,
    "stuck": stuck,
    "slow": slow,
    "gil": gil,
    "grow": grow,
    "swell": swell,
    "deaf": deaf,
    "orphan": orphan,
}


def load(cls: Any, folder: Any, device: str = "cpu", *more: Any, **named: Any) -> EntailmentModel:
    model: EntailmentModel = real_load(cls, folder, device if REAL else "cpu", *more, **named)
    model.on_gpu = device != "cpu"  # type: ignore[attr-defined]
    return model


def pretend_cuda() -> None:
    answers = {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "a simulated GPU",
        "get_device_capability": (6, 1),  # a GPU that computes in fp32, like the CPU behind it
        "mem_get_info": (6 * GIB, 8 * GIB),
        "memory_reserved": GIB,
        "memory_allocated": GIB,
        "empty_cache": None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, _always(answer))


def _always(answer: object) -> Callable[..., object]:
    return lambda *_: answer


def replace_constants() -> None:
    """In service.build, by the environment."""
    for name in ("LOAD_PAUSE", "RETRY_GPU_PAUSE", "BASELINE_INTERVAL"):
        if name in os.environ:
            setattr(importlib.import_module("service.build"), name, float(os.environ[name]))


if __name__ == "__main__":
    replace_constants()
    if not REAL and os.environ.get("PRETEND_CUDA") == "1":
        pretend_cuda()
    if "FAKETIME_TIMESTAMP_FILE" in os.environ:
        # With a real monotonic clock, libfaketime before 0.9.11 breaks the system call of time.sleep.
        time.sleep = lambda seconds: select.select([], [], [], float(seconds))  # type: ignore[assignment]
    EntailmentModel.judge = judge  # type: ignore[method-assign]
    EntailmentModel.load = classmethod(load)  # type: ignore[assignment, method-assign]
    sys.argv = sys.argv[1:]
    runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")

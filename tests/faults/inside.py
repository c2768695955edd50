"""Starts the service with faults raised at the lowest seam: in torch's CUDA functions and the network itself.

    python tests/faults/inside.py web_app.py --model demo …

Everything of ours runs as it is, its mapping of foreign errors included. On a machine without CUDA one is
pretended: torch says that there is a GPU, and the network that was asked for on it computes on the CPU. With
CUDA there, the device is the real one and so are its errors: an allocation of a petabyte, an index out of
range in a kernel.

``fault.json`` in the run folder orders a fault and may be replaced at any time: {"kind", "times" or "seconds"
(without either, for good), "on": the device it is bound to, if to one}. ``FAULT`` in the environment is the
same for the start. Kinds: ``oom``, ``assert``, ``nan``, ``memory``, ``stuck`` (a forward pass that hears no
cancel point), ``slow`` (one that takes half a second more), ``gil`` (one that keeps the interpreter's lock),
``need`` (one that needs 4 GiB of a real GPU), ``grow`` (a leak of 64 MiB a question).
"""

from __future__ import annotations

import ctypes
import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402  # the path has to be there first

from ofa.model import EntailmentModel  # noqa: E402

ORDER = Path(os.environ["OFA_RUN_DIR"]) / "fault.json"
GIB = 1 << 30
REAL = torch.cuda.is_available()
real_load = EntailmentModel.load.__func__
real_judge = EntailmentModel.judge
leaked: list[bytearray] = []


class Order:
    """The fault that is ordered now, and whether it is still on."""

    def __init__(self) -> None:
        self.text = ""
        self.fault: dict[str, Any] = {}
        self.since = 0.0
        self.done = 0

    def kind(self, device: str) -> str:
        """What to do to this forward pass; "" for nothing."""
        text = ORDER.read_text() if ORDER.exists() else os.environ.get("FAULT", "{}")
        if text != self.text:
            self.text, self.fault = text, json.loads(text)
            self.since, self.done = time.monotonic(), 0
        fault = self.fault
        if not fault or fault.get("on", device) != device:
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
    if kind == "oom":
        out_of_memory()
    if kind == "need":
        torch.empty(4 * GIB, dtype=torch.uint8, device="cuda")
    if kind == "assert" and REAL:
        torch.zeros(2, device="cuda")[torch.tensor([9], device="cuda")].cpu()
    if kind == "assert":
        raise RuntimeError("CUDA error: device-side assert triggered\nCompile with TORCH_USE_CUDA_DSA")
    if kind == "memory":
        raise MemoryError
    if kind == "stuck":
        while True:
            time.sleep(1)
    if kind == "slow":
        time.sleep(0.5)
    if kind == "gil":
        ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the lock while it calls
    if kind == "grow":
        leaked.append(bytearray(os.urandom(1 << 20) * 64))
    results = real_judge(self, pairs, cancel_point)
    return [dict.fromkeys(result, float("nan")) for result in results] if kind == "nan" else results


def out_of_memory() -> None:
    """The real error of a real GPU, or the same without one."""
    if REAL:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
    raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def load(
    cls: Any, folder: Any, device: str = "cpu", dtype: Any = torch.float32, *more: Any
) -> EntailmentModel:
    model: EntailmentModel = real_load(cls, folder, device if REAL else "cpu", dtype, *more)
    model.on_gpu = device != "cpu"  # type: ignore[attr-defined]
    return model


def pretend_cuda() -> None:
    answers = {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "a pretended GPU",
        "get_device_capability": (6, 1),  # one that computes in fp32, as the CPU behind it does
        "mem_get_info": (6 * GIB, 8 * GIB),
        "memory_reserved": GIB,
        "memory_allocated": GIB,
        "empty_cache": None,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, lambda *_, answer=answer: answer)


if __name__ == "__main__":
    if not REAL and os.environ.get("PRETEND_CUDA") == "1":
        pretend_cuda()
    EntailmentModel.judge = judge  # type: ignore[method-assign]
    EntailmentModel.load = classmethod(load)  # type: ignore[assignment, method-assign]
    sys.argv = sys.argv[1:]
    runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")

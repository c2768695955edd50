"""Describe the machine and measure its peak: the fastest of several large matrix products."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from typing import Any

import torch

from lab.bench.timing import timed
from ofa.precision import best_dtype, name_of
from ofa.processor import kind

FLAGS = ("avx2", "avx512f", "avx512_bf16", "avx512_vnni", "amx_bf16", "amx_int8")


def describe(device: str) -> dict[str, Any]:
    """Return processor, instruction sets, memory, versions and the current load average."""
    model, flags = _processor()
    machine: dict[str, Any] = {
        "processor": model,
        "cpus": len(os.sched_getaffinity(0)),
        "kind": kind(),
        "instructions": [flag for flag in FLAGS if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "kernel": platform.release().split("-")[0],
        "load_average": round(os.getloadavg()[0], 2),
        "packages": {name: version(name) for name in ("numpy", "pillow", "tokenizers", "safetensors")},
    }
    if device.startswith("cuda"):
        machine["gpu"] = torch.cuda.get_device_name(device)
        machine["cuda"] = torch.version.cuda
    return machine


def _processor() -> tuple[str, set[str]]:
    model, flags = platform.machine(), set[str]()
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    model = value.strip()
                elif name.strip() == "flags":
                    flags = set(value.split())
                    break
    except OSError:
        pass
    return model, flags


def matrix_peaks(device: str, quick: bool) -> dict[str, float]:
    """Return FLOP/s of the product of two large square matrices, by number format."""
    side = 1024 if quick else 8192 if device.startswith("cuda") else 3072
    formats = dict.fromkeys((torch.float32, best_dtype(device)))
    return {name_of(dtype): _peak(device, dtype, side, 3 if quick else 8) for dtype in formats}


@contextmanager
def card_memory(device: str) -> Iterator[dict[str, int]]:
    """Yield a dict that receives the peak GPU memory of the block in MB; it stays empty on a CPU."""
    peak: dict[str, int] = {}
    card = device.startswith("cuda")
    if card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    yield peak
    if card:
        peak["card_allocated_mb"] = torch.cuda.max_memory_allocated(device) // 10**6
        peak["card_reserved_mb"] = torch.cuda.max_memory_reserved(device) // 10**6


def _peak(device: str, dtype: torch.dtype, side: int, runs: int) -> float:
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty(side, side, device=device, dtype=dtype)

    def multiply() -> None:
        torch.mm(left, right, out=out)

    multiply()
    return 2.0 * side**3 / min(timed(multiply, device) for _ in range(runs))

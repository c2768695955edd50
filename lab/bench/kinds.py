"""Latency by kind of processor: this one's own, and lesser ones that a limit in the environment forces.

Each kind runs in a process of its own, since oneDNN reads the limit once. Forced kinds keep this processor's
clock and caches, so they show which kernels are taken rather than the speed of such a processor.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import torch

from lab import ROOT
from lab.bench.sides import Subject

#: Values of oneDNN's variable.
LIMITS: Final = ("AVX512_CORE_BF16", "AVX512_CORE_VNNI", "AVX512_CORE", "AVX2")
_VARIABLE = "ONEDNN_MAX_CPU_ISA"
_CLEARED = (_VARIABLE, "DNNL_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY")


def kinds(subject: Subject) -> dict[str, Any]:
    """Return a row for each kind under a key of its own, so that other machines' rows are kept beside them.
    There are none for a GPU."""
    rows: dict[str, dict[str, Any]] = {}
    if subject.device != "cpu":
        return {"rows": rows}
    seen: set[str] = set()
    for limit in (None, *(LIMITS[-1:] if subject.quick else LIMITS)):
        row = _row(subject, limit)
        if row["kind"] not in seen:  # a limit above this processor changes nothing
            seen.add(row["kind"])
            rows[f"{row['processor']}, {row['kind']}{', forced' if row['forced'] else ''}"] = row
    return {"rows": rows}


def _row(subject: Subject, limit: str | None) -> dict[str, Any]:
    out = subject.scratch / f"kind-{limit}"
    command = [
        *(sys.executable, "-m", "lab.bench", "--only", "latency", "--device", "cpu", "--out", str(out)),
        *("--model", str(subject.folder), "--small", str(subject.small), "--rounds", str(subject.rounds)),
        *("--threads", str(torch.get_num_threads())),
        *(["--reference", str(subject.python)] if subject.python else []),
    ]
    subprocess.run(command, cwd=ROOT, env=_environment(limit), check=True, stdout=subprocess.DEVNULL)
    return _summed(out / "results.json", limit)


def _environment(limit: str | None) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in _CLEARED}
    return kept if limit is None else {**kept, _VARIABLE: limit}


def _summed(results: Path, limit: str | None) -> dict[str, Any]:
    section = json.loads(results.read_text(encoding="utf-8"))["cpu"]["latency"]
    machine = section["machine"]
    return {
        "forced": limit is not None,
        "measured": section["measured"],
        **{name: machine[name] for name in ("processor", "kind", "threads", "torch", "model")},
        "sides": {name: one["p50"] for name, one in section["sides"].items()},
    }

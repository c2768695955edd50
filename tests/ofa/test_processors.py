"""Processors with fewer instruction sets, forced by the environment of a child process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ofa import processor

ROOT = Path(__file__).resolve().parents[2]
CORE = ["tests/parity/test_goldens.py", "tests/ofa/test_converted.py", "tests/ofa/test_fold.py"]
CHOSEN = "(answered and batch or to_the_last_bit or inside or absorbed) and not full-size"
# Exits with 99 if torch ignored the requested capability.
RUN = """
import sys, pytest, torch
if torch.backends.cpu.get_cpu_capability() != sys.argv[1].upper():
    sys.exit(99)
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *sys.argv[2:]]))
"""


@pytest.mark.parametrize(
    ("onednn", "torchs"), [("SSE41", "default"), pytest.param("AVX2", "avx2", marks=pytest.mark.long)]
)
def test_no_answer_depends_on_the_instruction_set(onednn: str, torchs: str, tmp_path: Path) -> None:
    forced = {"ONEDNN_MAX_CPU_ISA": onednn, "ATEN_CPU_CAPABILITY": torchs}
    done = subprocess.run(
        [sys.executable, "-c", RUN, torchs, f"--basetemp={tmp_path / 'core'}", "-k", CHOSEN, *CORE],
        cwd=ROOT,
        env={**os.environ, **forced},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# Prints the kind, the format that auto takes, and the demo model's labels in fp32 and in bf16.
JUDGE = """
import json, sys, torch
from pathlib import Path
from PIL import Image
from ofa.model import EntailmentModel
from ofa.pair import Pair
from ofa.precision import best_dtype
from ofa.processor import kind
demo = Path("models/demo")
examples = json.loads((demo / "card.json").read_text())["examples"]
pairs = [Pair(Image.open(demo / one["image"]).convert("RGB"), one["hypothesis"]) for one in examples]
labels = [
    [max(scores, key=scores.get) for scores in EntailmentModel.load(demo, dtype=dtype).judge(pairs)]
    for dtype in (torch.float32, torch.bfloat16)
]
print(json.dumps([kind(), str(best_dtype("cpu")), [one["label"] for one in examples], *labels]))
"""


def instruction_sets() -> set[str]:
    """As the kernel lists them."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            return set(line.split())
    return set()


@pytest.mark.parametrize(
    ("forced", "needed", "kind", "dtype"),
    [
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, "avx512_bf16", "avx512_bf16", "torch.bfloat16"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_VNNI"}, "avx512_vnni", "avx512_vnni", "torch.float32"),
        ({"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"}, "avx512f", "avx512", "torch.float32"),
        ({"DNNL_MAX_CPU_ISA": "AVX2"}, "avx2", "avx2", "torch.float32"),
        ({"ATEN_CPU_CAPABILITY": "avx2"}, "avx2", "avx2", "torch.float32"),
        (
            {"ONEDNN_MAX_CPU_ISA": "SSE41", "ATEN_CPU_CAPABILITY": "default"},
            "sse4_1",
            "other",
            "torch.float32",
        ),
    ],
)
def test_a_forced_instruction_set_decides_the_kind_and_no_label(
    forced: dict[str, str], needed: str, kind: str, dtype: str
) -> None:
    if needed not in instruction_sets():
        pytest.skip(f"this processor has no {needed}")
    done = subprocess.run(
        [sys.executable, "-c", JUDGE], cwd=ROOT, env={**os.environ, **forced}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found_kind, found_dtype, correct, exact, low = json.loads(done.stdout)
    assert (found_kind, found_dtype) == (kind, dtype)
    assert exact == low == correct


@pytest.mark.parametrize(
    ("has", "limit", "expected"),
    [
        ({"amx_bf16", "avx512_bf16", "avx512_vnni", "avx512_f", "avx2"}, "", "amx"),
        ({"amx_bf16", "avx512_bf16", "avx512_vnni", "avx512_f", "avx2"}, "AVX512_CORE_FP16", "avx512_bf16"),
        ({"amx_bf16", "avx512_bf16", "avx512_vnni", "avx512_f", "avx2"}, "avx512_core_amx", "amx"),
        ({"avx512_vnni", "avx_vnni", "avx512_f", "avx2"}, "AVX2_VNNI", "avx_vnni"),
        ({"avx_vnni", "avx2"}, "", "avx_vnni"),
        ({"avx_vnni", "avx2"}, "avx512_core_vnni", "avx2"),
        (set(), "", "other"),
    ],
)
def test_the_kind_of_processors_that_are_not_here(
    monkeypatch: pytest.MonkeyPatch, has: set[str], limit: str, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(has, True))
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", limit)
    monkeypatch.delenv("ATEN_CPU_CAPABILITY", raising=False)
    assert processor.kind() == expected

"""The core tests of the network, emulating processors with fewer instruction sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

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

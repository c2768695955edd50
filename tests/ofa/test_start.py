"""Modules that a start must not import, since they cost seconds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import sys
from pathlib import Path
import torch
from PIL import Image
from ofa import converted
from ofa.model import EntailmentModel
from ofa.pair import Pair

converted.WORTHWHILE = 1
folder, cache = Path(sys.argv[1]), Path(sys.argv[2])
for mapped in (False, True):
    model = EntailmentModel.load(folder, dtype=torch.bfloat16, cache=cache)
    assert model.mapped is mapped
    model.judge([Pair(Image.new("RGB", (20, 20)), "a circle")])
    model.keep()
slow = ("torch._dynamo", "torch._inductor", "sympy")
print([name for name in slow if name in sys.modules])
"""


def test_neither_loading_nor_judging_imports_the_compiler(random_folder: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(random_folder), str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "[]\n"), done.stderr

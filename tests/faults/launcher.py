"""Starts web_app.py with faults that cannot be made from outside, at the lowest seam and on order.

``fault.json`` in the run folder names one: ``gil`` (a thread takes the interpreter's lock and never gives it
back), ``forward`` (a forward pass that never returns and hears no cancel point). An order is for the process
that first reads it: it is taken away, so that the next process is sound.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from service.predictor import NativePredictor  # noqa: E402  # the path has to be there first

ORDER = Path(os.environ["OFA_RUN_DIR"]) / "fault.json"
judge = NativePredictor.judge
stuck = threading.Event()


def judge_or_hang(self: NativePredictor, *arguments: Any, **options: Any) -> Any:
    while stuck.is_set():
        time.sleep(1)
    return judge(self, *arguments, **options)


def obey() -> None:
    while not ORDER.exists():
        time.sleep(0.05)
    order = ORDER.read_text()
    ORDER.unlink()
    if order == "gil":
        ctypes.PyDLL(None).sleep(3600)  # PyDLL keeps the lock while it calls
    elif order == "forward":
        stuck.set()


if __name__ == "__main__":
    NativePredictor.judge = judge_or_hang  # type: ignore[method-assign]
    threading.Thread(target=obey, daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")

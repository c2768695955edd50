"""Start web_app.py with a model that takes SLOW_SECONDS longer per batch."""

from __future__ import annotations

import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from service.inference.native import NativePredictor  # noqa: E402  # after the path

judge = NativePredictor.judge


def judge_slowly(self: NativePredictor, *arguments: Any, **options: Any) -> Any:
    time.sleep(float(os.environ["SLOW_SECONDS"]))
    return judge(self, *arguments, **options)


if __name__ == "__main__":
    NativePredictor.judge = judge_slowly  # type: ignore[method-assign]
    sys.argv[0] = str(ROOT / "web_app.py")
    runpy.run_path(sys.argv[0], run_name="__main__")

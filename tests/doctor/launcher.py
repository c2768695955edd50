"""Starts web_app.py with a model, a clock and a machine that can be degraded while it runs.

``worse.json`` in the run folder, read all the time: ``judge`` (additional seconds per batch), ``char`` (per
character of a batch's longest text), ``megapixel`` (per million pixels of a picture, while it is read),
``clock`` (offset of the wall clock), ``leak`` (bytes kept per batch). VITALS_PERIOD is the period of VITALS
lines, so that recordings are short.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from service.inference.native import NativePredictor  # noqa: E402
from service.intake.prepare import Intake  # noqa: E402  # after the path
from service.telemetry.vitals import Vitals  # noqa: E402

WORSE = Path(os.environ["OFA_RUN_DIR"]) / "worse.json"
judge, read, set_clock = NativePredictor.judge, Intake.picture, time.time
leaked: list[bytes] = []


def worse(what: str) -> float:
    try:
        return float(json.loads(WORSE.read_text()).get(what, 0))
    except (OSError, ValueError):
        return 0.0


def judge_worse(self: NativePredictor, pairs: Any, cancel_point: Any) -> Any:
    longest = max(len(pair.hypothesis) for pair in pairs)
    until = time.monotonic() + worse("judge") + worse("char") * longest
    while time.monotonic() < until:
        cancel_point()
        time.sleep(0.02)
    if size := int(worse("leak")):
        leaked.append(os.urandom(1 << 20) * (size >> 20))
    return judge(self, pairs, cancel_point)


def read_worse(self: Intake, *arguments: Any, **more: Any) -> Any:
    picture = read(self, *arguments, **more)
    width, height = picture.size
    time.sleep(worse("megapixel") * width * height / 1e6)
    return picture


if __name__ == "__main__":
    NativePredictor.judge = judge_worse  # type: ignore[method-assign]
    Intake.picture = read_worse  # type: ignore[method-assign]
    time.time = lambda: set_clock() + worse("clock")
    defaults = Vitals.__init__.__kwdefaults__
    defaults |= {"period": float(os.environ.get("VITALS_PERIOD", defaults["period"])), "unix": time.time}
    sys.argv = sys.argv[1:]
    runpy.run_path(str(ROOT / sys.argv[0]), run_name="__main__")

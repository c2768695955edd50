"""Records traffic for the forecast of durations: python -m tests.doctor.traffic RUN_DIR [SECONDS] [SEED]

The demo model, in this process, asked by users who come and go: one to twelve at a time, with pictures and
texts of all sizes. What is kept is what the service logs.
"""

from __future__ import annotations

import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from service.build import Application, build
from service.settings import Settings
from service.telemetry.logs import Logs

PHASE_SECONDS = 12.0


def ask(application: Application, choose: random.Random, until: float) -> None:
    while time.monotonic() < until:
        side = int(2 ** choose.uniform(6, 11.5))
        picture = Image.new("RGB", (side, side * 3 // 4), (choose.randrange(256), 40, 40))
        application.submit(picture, "a word " * choose.randint(1, 100), source="page").result()
        time.sleep(choose.expovariate(4.0))


def record(run_dir: Path, seconds: float, seed: int) -> None:
    choose = random.Random(seed)
    settings = Settings(model="demo", run_dir=run_dir, threads=1)
    logs = Logs(run_dir, max_bytes=settings.log_max_bytes, backups=settings.log_backups)
    logs.open()
    application = build(settings)
    try:
        assert application.supervisor.load()
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            users = choose.randint(1, 12)
            until = min(end, time.monotonic() + PHASE_SECONDS)
            with ThreadPoolExecutor(users) as pool:
                for _ in range(users):
                    pool.submit(ask, application, random.Random(choose.random()), until)
    finally:
        application.supervisor.stop(20.0)
        logs.close()


if __name__ == "__main__":
    folder, *more = sys.argv[1:]
    record(Path(folder), float(more[0]) if more else 240.0, int(more[1]) if more[1:] else 0)

"""Real server processes with served batches: killed in the middle, stopped, restarted."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from lab.instances.instance import ROOT, Instance
from tests.batch.served import zipped
from tests.exposition import Scraped
from tests.fakes import PATIENCE

ROWS = 240
LIST = [(f"{n % 40}.png", f"there is a red circle {n}") for n in range(ROWS)]


class Served:
    """Processes that share a run directory, one after another."""

    def __init__(self, run_dir: Path, stack: ExitStack) -> None:
        self._run_dir = run_dir
        self._stack = stack
        self._instance: Instance | None = None
        self.location = ""

    def start(self) -> Instance:
        self._instance = self._stack.enter_context(
            Instance(self._run_dir, "--model", "demo", "--page", "off", "--timeout", "60")
        )
        self._instance.wait_healthy()
        return self._instance

    @property
    def instance(self) -> Instance:
        assert self._instance is not None
        return self._instance

    def upload(self) -> None:
        file = {"file": ("list.zip", zipped(LIST))}
        answer = httpx.post(f"{self.instance.page}/v1/batches", files=file, timeout=PATIENCE)
        assert answer.status_code == 202
        self.location = answer.headers["location"]

    def get(self, path: str = "") -> httpx.Response:
        return httpx.get(f"{self.instance.page}{self.location}{path}", timeout=PATIENCE)

    def wait_for_rows(self, count: int) -> dict[str, Any]:
        self.instance.wait_for("rows", lambda: self.get().json()["rows"]["done"] >= count)
        return dict(self.get().json())

    def judged(self) -> float:
        """Rows that this process has answered."""
        scraped = Scraped(self.instance.get("/metrics")[1])
        return scraped("ofa_requests_total", source="batch", outcome="answered")

    def written(self) -> dict[int, str]:
        """Position and answer of the rows in the store of a process that has ended."""
        with sqlite3.connect(self._run_dir / "batches" / "batches.sqlite") as store:
            rows = store.execute("SELECT position, answer FROM rows WHERE state = 1").fetchall()
        store.close()
        return dict(rows)


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with ExitStack() as stack:
        yield Served(tmp_path, stack)


def check_complete(served: Served) -> None:
    state = served.wait_for_rows(ROWS)
    assert (state["state"], state["rows"]) == ("done", {"total": ROWS, "done": ROWS, "failed": 0})
    results = [one.split('"text": "')[1].split('"')[0] for one in served.get("/results").text.splitlines()]
    assert results == [text for _, text in LIST]


def test_a_killed_process_loses_no_row_and_judges_none_again(served: Served) -> None:
    for start in (20, 90):
        served.start()
        if not served.location:
            served.upload()
        reported = served.wait_for_rows(start)["rows"]["done"]
        served.instance.process.kill()
        served.instance.exit_code()
        before = served.written()
        assert reported <= len(before) < ROWS
    served.start()
    check_complete(served)
    assert served.judged() == ROWS - len(before)
    served.instance.terminate()
    assert before.items() <= served.written().items()


def test_a_stopped_process_goes_on_after_its_restart(served: Served) -> None:
    served.start()
    served.upload()
    served.wait_for_rows(20)
    assert served.instance.terminate() == 0
    with sqlite3.connect(served._run_dir / "batches" / "batches.sqlite") as store:
        crashes = store.execute("SELECT max(crashes) FROM rows WHERE state = 0").fetchone()
    store.close()
    assert crashes == (0,)
    before = served.written()
    served.start()
    check_complete(served)
    assert served.judged() == ROWS - len(before)


POISONED = """
import os, signal, sys, threading
from pathlib import Path
from batch.batches import Batches
from service.build import build
from service.settings import Settings
from tests.applications import Hub
from tests.batch.served import NO_MOUNTS, finished, upload, zipped
from tests.fakes import YES, FakePredictor

def judge(pairs, cancel_point):
    if any(pair.hypothesis == "poison" for pair in pairs):
        os.kill(os.getpid(), signal.SIGKILL)
    return [YES for _ in pairs]

settings = Settings(run_dir=Path(sys.argv[1]))
application = build(settings, model=FakePredictor(judge), resolve=Hub())
application.supervisor.load()
batches = Batches(application, settings, mounts=NO_MOUNTS)
batches.start()
id_file = settings.run_dir / "id"
if not id_file.exists():
    rows = [(f"{n}.png", "poison" if n == 3 else "fine") for n in range(20)]
    id_file.write_text(upload(batches, zipped(rows)).id)
codes = [one.code for one in finished(batches, batches.find(id_file.read_text(), ""))]
print(codes)
batches.stop()
application.supervisor.stop(0.0)
sys.stdout.flush()
os._exit(0)
"""


def test_a_row_that_kills_the_process_makes_no_restart_loop(tmp_path: Path) -> None:
    ends = []
    while not ends or ends[-1].returncode:
        assert len(ends) < 5
        command = [sys.executable, "-c", POISONED, str(tmp_path)]
        ends.append(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False))
    assert [one.returncode for one in ends] == [-9, -9, -9, 0], ends[-1].stderr
    assert ends[-1].stdout.strip() == str([*[None] * 3, "crashed", *[None] * 16])

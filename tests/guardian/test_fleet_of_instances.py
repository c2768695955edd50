"""guardian.sh fleet with real instances of the demo model."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPException
from pathlib import Path

import pytest

from lab.faults.users import red_circle
from lab.instances.client import judge
from lab.instances.fleet import Fleet
from tests.scaling import documented

TIMES = {"WATCH_INTERVAL": "0.1", "CHECK_INTERVAL": "0.5", "CHECK_TIMEOUT": "10"}
WITH_PAGE, WITHOUT_PAGE = documented("./guardian.sh fleet start")
CLIENTS = 2
REQUESTS = 40  # before, between and after the restarts


@pytest.fixture(params=[WITHOUT_PAGE])
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    with Fleet(tmp_path / "fleet", 2, TIMES, OFA_DRAIN_DELAY=1) as fleet:
        _, _, *arguments = request.param.split()
        code, output = fleet.command(*arguments)
        assert code == 0, output
        yield fleet
        assert fleet.command("stop")[0] == 0


@pytest.mark.parametrize("fleet", [WITH_PAGE], indirect=True)
def test_two_instances_serve_and_one_that_is_killed_comes_back_alone(fleet: Fleet) -> None:
    before = fleet.rows()
    columns = ("PHASE", "READY", "HEALTHY", "QUEUE", "RESTARTS", "DEVICE")
    assert [tuple(row[name] for name in columns) for row in before] == [
        ("loaded", "yes", "yes", "0", "0", "cpu")
    ] * 2
    for number in range(2):
        assert judge(fleet.port + number, red_circle(), "there is a red circle").status == 200
    os.kill(int(before[0]["PID"]), signal.SIGKILL)
    fleet.wait("the restart", lambda: fleet.rows()[0]["PID"] not in ("-", before[0]["PID"]))
    fleet.wait("health", lambda: fleet.command("status")[0] == 0)
    after = fleet.rows()
    assert [row["RESTARTS"] for row in after] == ["1", "0"]
    assert after[1]["PID"] == before[1]["PID"]


class Load:
    """Clients that take turns among the ready instances until told to end, and what they got."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._turns = itertools.count()
        self._lock = threading.Lock()  # guards results
        self.enough = threading.Event()
        self.results: Counter[str] = Counter()

    def more(self) -> None:
        enough = self.results.total() + REQUESTS
        self._fleet.wait("requests", lambda: self.results.total() >= enough)

    def client(self) -> None:
        while not self.enough.is_set():
            number = next(self._turns) % 2
            number = number if self._ready(number) else 1 - number
            try:
                result = str(judge(self._fleet.port + number, red_circle(), "there is a red circle").status)
            except (OSError, HTTPException) as error:
                result = type(error).__name__
            with self._lock:
                self.results[result] += 1

    def _ready(self, number: int) -> bool:
        try:
            address = f"http://127.0.0.1:{self._fleet.health_port + number}/readyz"
            with urllib.request.urlopen(address, timeout=60):
                return True
        except (OSError, HTTPException):
            return False


@pytest.mark.long
@pytest.mark.parametrize("options", [(), ("--", "--model", "demo", "--page", "off")])
def test_a_rolling_restart_loses_no_request(fleet: Fleet, options: tuple[str, ...]) -> None:
    before = {row["PID"] for row in fleet.rows()}
    load = Load(fleet)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(load.client) for _ in range(CLIENTS)]
        try:
            load.more()
            assert fleet.command("restart", *options)[0] == 0
            load.more()
        finally:
            load.enough.set()
        for client in clients:
            client.result()
    assert load.results == {"200": load.results.total()}
    assert not before & {row["PID"] for row in fleet.rows()}

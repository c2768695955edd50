"""The client in child processes: imports, requests, two downloads at once, a killed download."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lab.instances.hub import Hub
from service.hub.resolve import resolve
from tests.hub.conftest import MODEL, NEEDED, PATIENCE, WEIGHTS, fake_model, wait_for_partial

ROOT = Path(__file__).resolve().parents[2]
FETCH = """
import logging, sys
logging.basicConfig(level=logging.INFO)
from service.hub.resolve import resolve
seen = set()
def show(progress):
    if progress.file not in seen:
        seen.add(progress.file)
        print(progress.file, flush=True)
print(resolve(sys.argv[1], progress=show), flush=True)
"""
REPORT = """
import json, sys
from modelscope_hub import _download, _legacy_api
print(json.dumps({
    "modules": sorted(sys.modules),
    "idle": [_legacy_api.DOWNLOAD_TIMEOUT, _legacy_api.API_TIMEOUT, _legacy_api.API_CONNECT_TIMEOUT],
    "listing": _download.REPO_TREE_LIST_TIMEOUT_SECONDS,
}))
"""


def start(program: str, hub: Hub, cache: Path, **more: str) -> subprocess.Popen[str]:
    """A process configured by environment variables alone."""
    environment = os.environ | {"MODELSCOPE_ENDPOINT": hub.endpoint, "MODELSCOPE_CACHE": str(cache)} | more
    command = [sys.executable, "-c", program, MODEL]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


@contextmanager
def gate(hub: Hub) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Pause the weights halfway. Returns (reached, proceed)."""
    reached, go_on = threading.Event(), threading.Event()

    def hold() -> None:
        reached.set()
        go_on.wait(PATIENCE)

    hub.faults.halfway[WEIGHTS] = hold
    try:
        yield reached, go_on
    finally:
        go_on.set()


def test_the_client_imports_no_model_zoo_contacts_only_the_hub_and_sends_no_identifier(
    hub: Hub, cache: Path, tmp_path: Path
) -> None:
    home = tmp_path / "home"
    done = start(FETCH + REPORT, hub, cache, HOME=str(home), MODELSCOPE_HOME=str(home / "modelscope"))
    output, errors = done.communicate(timeout=PATIENCE)
    assert done.returncode == 0, errors
    report = json.loads(output.splitlines()[-1])
    zoo = ("modelscope.models", "modelscope.pipelines", "modelscope.preprocessors", "modelscope.msdatasets")
    heavy = {"transformers", "fairseq", "torchvision", "torchaudio", "decord", "datasets"}
    assert not [name for name in report["modules"] if name.startswith(zoo)]
    assert not heavy & set(report["modules"])
    assert report["idle"] == [30, 30, 10]
    assert report["listing"] == 120
    assert hub.strays == []
    assert all("session_id/00000000000000000000000000000000;" in agent for agent in hub.user_agents)
    assert not home.exists()
    # Its bars and chatter belong in nobody's log.
    assert errors == ""


def test_two_processes_fetch_a_model_once(hub: Hub, cache: Path) -> None:
    with gate(hub) as (reached, go_on):
        first = start(FETCH, hub, cache)
        assert reached.wait(PATIENCE)
        second = start(FETCH, hub, cache)
        assert second.stdout is not None
        waiting = second.stdout.readline()
        go_on.set()
    outputs = [process.communicate(timeout=PATIENCE) for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert "another process" in waiting
    assert outputs[0][0].splitlines()[-1] == outputs[1][0].splitlines()[-1]
    assert sorted(seen.file for seen in hub.files) == NEEDED
    assert hub.listings == 3  # all of them the first one's


def test_a_killed_download_leaves_no_lock_and_resumes(hub: Hub, cache: Path) -> None:
    with gate(hub) as (reached, _):
        process = start(FETCH, hub, cache)
        assert reached.wait(PATIENCE)
        partial = wait_for_partial(cache)
        process.kill()
        process.communicate(timeout=PATIENCE)
    had = partial.stat().st_size
    hub.forget()
    folder = resolve(MODEL, cache_dir=cache, endpoint=hub.endpoint)
    assert hub.ranges(WEIGHTS) == [f"bytes={had}-"]
    assert "configuration.json" not in hub.requested()
    assert (folder / WEIGHTS).read_bytes() == fake_model()[WEIGHTS]

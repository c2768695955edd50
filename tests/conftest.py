"""Rules for every test: a clean environment, no network but loopback, no process or thread left running.

The environment is set when this file is imported, before any module under test reads it: no settings of the
user, no proxies; home, caches and run-time files in a temporary folder.
"""

from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import tqdm

from lab.instances import reaper
from service.settings import options

SETTLING_SECONDS = 30.0  # a bound for a busy machine

_sandbox = Path(tempfile.mkdtemp(prefix="ofa-tests-"))


def _make_environment() -> None:
    settings = {option.env for option in options().values()}
    prefixes = ("OFA_", "MODELSCOPE_", "GRADIO_", "PYTHONWARNINGS")
    for name in list(os.environ):
        if name in settings or name.startswith(prefixes) or name.lower().endswith("_proxy"):
            del os.environ[name]
    for name, folder in {
        "HOME": "home",
        "XDG_CACHE_HOME": "home/.cache",
        "MODELSCOPE_CACHE": "hub",
        "OFA_RUN_DIR": "run",
    }.items():
        (_sandbox / folder).mkdir(parents=True, exist_ok=True)
        os.environ[name] = str(_sandbox / folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    # The test models are too small for more threads, which on a busy machine make them many times slower.
    # Child processes inherit it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ["PYTHONFAULTHANDLER"] = "1"
    # tqdm's monitor thread lives as long as the process and would look like a leak.
    tqdm.tqdm.monitor_interval = 0


def _refuse_foreign_addresses(event: str, arguments: tuple[object, ...]) -> None:
    """Audit hook: refuse connections that leave this machine."""
    if event != "socket.connect":
        return
    address = arguments[1]
    if isinstance(address, tuple) and not _is_loopback(str(address[0])):
        raise PermissionError(f"a test tried to reach {address[0]}: tests stay on this machine")


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


_make_environment()
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # Started in the background of a shell; child processes would inherit it and ignore SIGINT.
    signal.signal(signal.SIGINT, signal.default_int_handler)
_reaper = reaper.watch()
sys.addaudithook(_refuse_foreign_addresses)


def pytest_unconfigure() -> None:
    assert _reaper.stdin is not None
    _reaper.stdin.close()
    _reaper.wait(SETTLING_SECONDS)
    shutil.rmtree(_sandbox, ignore_errors=True)


@pytest.fixture(autouse=True)
def no_thread_left_behind() -> Iterator[None]:
    """Fail a test that leaves a thread running after its fixtures are torn down."""
    before = set(threading.enumerate())
    yield
    give_up = time.monotonic() + SETTLING_SECONDS
    while (left := set(threading.enumerate()) - before) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert not left, f"threads left running: {sorted(thread.name for thread in left)}"


@pytest.fixture(autouse=True, scope="session")
def no_process_left_behind() -> Iterator[None]:
    """Fail the run if a child process outlives the last test, and kill it."""
    before = set(psutil.Process().children(recursive=True))
    yield
    children = set(psutil.Process().children(recursive=True)) - before
    _, left = psutil.wait_procs(children, timeout=SETTLING_SECONDS)
    commands: list[str] = []
    for process in left:
        with suppress(psutil.NoSuchProcess):  # it exited meanwhile
            commands.append(" ".join(process.cmdline()))
            process.kill()
    assert not commands, f"processes left running: {commands}"

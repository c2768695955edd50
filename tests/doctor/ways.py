"""Injects each fault into a real process so that its logs can be recorded.

Each function gets an empty run folder and returns when the logs are written and all its processes have
exited.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path

from PIL import Image

from lab.faults.service import Service
from lab.faults.users import Outcome, ask, red_circle
from lab.instances.guarded import wait_for
from lab.instances.hub import Hub
from lab.instances.instance import Instance
from lab.instances.ports import free_ports
from tests.hub.conftest import MODEL, WEIGHTS, fake_model

TEXT = "there is a red circle"
GIVING_UP_SECONDS = 900.0  # several starts on a busy machine
INSIDE = "lab/faults/inside.py"
LAUNCHER = "tests/doctor/launcher.py"
QUICK = {"OMP_NUM_THREADS": "1", "OFA_THREADS": "1", "OFA_PROBE_TIMEOUT": "30", "VITALS_PERIOD": "1"}


def _scrape(run_dir: Path, port: int) -> None:
    """Save the present answer of /metrics, if there is one."""
    address = f"http://127.0.0.1:{port}/metrics"
    with suppress(OSError, HTTPException), urllib.request.urlopen(address, timeout=10) as answer:
        (run_dir / "metrics.txt").write_bytes(answer.read())


def _ask(
    instance: Instance, count: int, *, text: str = TEXT, picture: bytes = b"", caller: str = ""
) -> list[Outcome]:
    return [ask(instance.page, picture or red_circle(), text, caller=caller) for _ in range(count)]


def _at_once(instance: Instance, users: int, each: int) -> None:
    with ThreadPoolExecutor(users) as pool:
        list(pool.map(lambda user: _ask(instance, each, caller=f"192.0.2.{user}"), range(users)))


def _worse(run_dir: Path, **how: float) -> None:
    part = run_dir / "worse.part"
    part.write_text(json.dumps(how))
    part.rename(run_dir / "worse.json")


def _order(run_dir: Path, text: str) -> None:
    part = run_dir / "fault.part"
    part.write_text(text)
    part.rename(run_dir / "fault.json")


@contextmanager
def _instance(
    run_dir: Path, program: str = LAUNCHER, *arguments: str, **environment: str
) -> Iterator[Instance]:
    """A healthy instance of the demo model, stopped at the end unless it has exited."""
    with Instance(
        run_dir,
        *("web_app.py", "--model", "demo", *arguments),
        program=program,
        environment=QUICK | environment,
    ) as instance:
        instance.wait_healthy()
        yield instance
        if instance.process.poll() is None:
            _scrape(run_dir, instance.health_port)
            instance.terminate()


# ---- loading -----------------------------------------------------------------------------------------------


def _load(run_dir: Path, hub: Hub | None, cache: Path, *arguments: str, model: str = MODEL) -> None:
    """An instance that exits because it cannot load."""
    (port,) = free_ports(1)
    endpoint = hub.endpoint if hub is not None else f"http://127.0.0.1:{port}"
    with Instance(
        run_dir,
        *("--model", model, "--load-attempts", "2", *arguments),
        program="health_api.py",
        environment={"MODELSCOPE_ENDPOINT": endpoint, "MODELSCOPE_CACHE": str(cache)},
    ) as instance:
        while instance.process.poll() is None:
            _scrape(run_dir, instance.health_port)
            time.sleep(0.005)


def cut(run_dir: Path) -> None:
    with Hub() as hub:
        hub.repositories[MODEL, "master"] = fake_model()
        hub.faults.cut_after[WEIGHTS] = [1000] * 1000
        _load(run_dir, hub, run_dir / "cache")


def damaged(run_dir: Path) -> None:
    with Hub() as hub:
        hub.repositories[MODEL, "master"] = fake_model()
        hub.faults.flipped[WEIGHTS] = 1000
        _load(run_dir, hub, run_dir / "cache")


def wrong_id(run_dir: Path) -> None:
    with Hub() as hub:
        _load(run_dir, hub, run_dir / "cache", model="nobody/nothing")


def no_network(run_dir: Path) -> None:
    _load(run_dir, None, run_dir / "cache")


def full_disk(run_dir: Path) -> None:
    with _small_disk(run_dir / "cache", "700k") as disk, Hub() as hub:
        hub.repositories[MODEL, "master"] = fake_model()
        _load(run_dir, hub, disk)


@contextmanager
def _small_disk(path: Path, size: str) -> Iterator[Path]:
    path.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=True)
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def no_gpu(run_dir: Path) -> None:
    _load(run_dir, None, run_dir / "cache", "--device", "cuda:7", model="demo")


def fp16(run_dir: Path) -> None:
    _load(run_dir, None, run_dir / "cache", "--device", "cpu", "--dtype", "fp16", model="demo")


# ---- time and memory ---------------------------------------------------------------------------------------


def healthy(run_dir: Path) -> None:
    with _instance(run_dir, PROBE_INTERVAL="2") as instance:
        choose = random.Random(7)
        for _ in range(40):
            size = choose.choice([(64, 64), (512, 384), (1600, 1200)])
            picture = Image.new("RGB", size, choose.choice(["red", "blue", "white"]))
            file = io.BytesIO()
            picture.save(file, "PNG")
            _ask(instance, 1, text="a word " * choose.randint(1, 30), picture=file.getvalue())
        _at_once(instance, 3, 5)
        time.sleep(5)


def drift(run_dir: Path) -> None:
    """The same requests take 3 s, then 21 s."""
    with _instance(run_dir, LAUNCHER, "--timeout", "60", PROBE_INTERVAL="600") as instance:
        for seconds in (3.0, 21.0):
            _worse(run_dir, judge=seconds)
            _ask(instance, 10)


def creep(run_dir: Path) -> None:
    with _instance(run_dir, PROBE_INTERVAL="600", VITALS_PERIOD="20") as instance:
        _ask(instance, 5)
        _worse(run_dir, leak=4 << 20)
        for _ in range(140):
            _ask(instance, 1)
            time.sleep(5)


def overload(run_dir: Path) -> None:
    flags = ("--queue-size", "4", "--timeout", "4", "--trusted-proxies", "127.0.0.1")
    with _instance(run_dir, LAUNCHER, *flags) as instance:
        _worse(run_dir, judge=1.5)
        _at_once(instance, 12, 4)


def long_texts(run_dir: Path) -> None:
    with _instance(run_dir, LAUNCHER, "--timeout", "3", PROBE_INTERVAL="600") as instance:
        _worse(run_dir, char=0.006)
        for n in range(12):
            _ask(instance, 1, text="a red circle, and " * 50 if n % 2 else "a circle")


def large_pictures(run_dir: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3000, 2000), "red").save(file, "PNG")
    with _instance(run_dir, LAUNCHER, "--timeout", "3", PROBE_INTERVAL="600") as instance:
        _worse(run_dir, megapixel=0.55)
        for n in range(12):
            _ask(instance, 1, picture=file.getvalue() if n % 2 else b"")


def clock(run_dir: Path) -> None:
    with _instance(run_dir) as instance:
        _ask(instance, 2)
        time.sleep(4)
        _worse(run_dir, clock=-900)
        time.sleep(4)
        _ask(instance, 2)


def standstill(run_dir: Path) -> None:
    with _instance(run_dir) as instance:
        _ask(instance, 2)
        time.sleep(8)
        os.kill(instance.process.pid, signal.SIGSTOP)
        time.sleep(25)
        os.kill(instance.process.pid, signal.SIGCONT)
        time.sleep(5)


def gap(run_dir: Path) -> None:
    """The disk under the logs is full for a while."""
    with _small_disk(run_dir / "disk", "64k") as disk:
        with _instance(disk) as instance:
            _ask(instance, 2)
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while file.write(b"x" * 512):
                    pass
            _ask(instance, 12)
            filler.unlink()
            _ask(instance, 2)
        for name in ("web_app.log", "last_exit.json", "metrics.txt"):
            (run_dir / name).write_bytes((disk / name).read_bytes())


# ---- device ------------------------------------------------------------------------------------------------


def _pretended(run_dir: Path, fault: str, count: int = 3, **environment: str) -> None:
    """Requests to an instance with a simulated GPU and an injected fault."""
    with _instance(run_dir, INSIDE, PRETEND_CUDA="1", RETRY_GPU_PAUSE="0.5", **environment) as instance:
        _ask(instance, 2)
        _order(run_dir, fault)
        _ask(instance, count)
        if instance.process.poll() is None:
            _order(run_dir, "{}")
            time.sleep(4)
            _ask(instance, 2)


def oom(run_dir: Path) -> None:
    _pretended(run_dir, '{"kind": "oom", "on": "cuda"}', 6)


def nan(run_dir: Path) -> None:
    _pretended(run_dir, '{"kind": "nan", "times": 4}', 4, PROBE_INTERVAL="600")


def memory(run_dir: Path) -> None:
    _pretended(run_dir, '{"kind": "memory", "times": 20}', 5, OFA_DEVICE="cpu", PROBE_INTERVAL="600")


def unstable(run_dir: Path) -> None:
    often = {"PROBE_INTERVAL": "0.5", "BASELINE_INTERVAL": "0.5"}
    with _instance(run_dir, INSIDE, OFA_DTYPE="fp32", **often) as instance:
        _order(run_dir, '{"kind": "nan", "times": 3}')
        instance.wait_for("the reload", lambda: instance.log.count("MODEL_LOADED") == 2)
        instance.wait_healthy()


# ---- restarts ----------------------------------------------------------------------------------------------


@contextmanager
def _guarded(run_dir: Path, model: str = "demo", **settings: object) -> Iterator[Service]:
    told = {"CHECK_TIMEOUT": 10, "STABLE_PERIOD": 600, "OMP_NUM_THREADS": 1, "OFA_PROBE_TIMEOUT": 30}
    with Service(run_dir, "--model", model, settings=told | settings) as service:
        service.start()
        yield service
        _scrape(run_dir, service.health_port)
        service.command("stop")


def _restarted(run_dir: Path, make: Callable[[Service], object], **settings: object) -> None:
    with _guarded(run_dir, **settings) as service:
        service.wait_until_healthy()
        first = service.pid
        make(service)
        service.wait_until_healthy(other_than=first)
        wait_for("the recovery", lambda: "[SUCCESS]" in service.restart_log)


def signalled(number: int) -> Callable[[Path], None]:
    return lambda run_dir: _restarted(run_dir, lambda service: os.kill(service.pid, number))


def ordered(kind: str) -> Callable[[Path], None]:
    """A fault that makes the next forward pass hang."""
    return lambda run_dir: _restarted(
        run_dir, _within(kind), OFA_TIMEOUT=2, OFA_CANCEL_GRACE=1, OFA_HANG_LIMIT=2
    )


def _within(kind: str) -> Callable[[Service], None]:
    """A fault in the present process, which gets requests until it is replaced."""

    def make(service: Service) -> None:
        first = service.pid
        _order(service.run_dir, json.dumps({"kind": kind, "pid": first}))
        while service.pid == first:
            ask(service.page, red_circle(), TEXT)
            time.sleep(0.5)

    return make


def lost(run_dir: Path) -> None:
    _restarted(run_dir, _within("assert"), PRETEND_CUDA=1)


def limit(run_dir: Path) -> None:
    # Checked rarely: on a busy machine the exit may take long after the announcement.
    _restarted(run_dir, _within("grow"), OFA_MAX_RSS="1200M", CHECK_INTERVAL=20)


def loop(run_dir: Path) -> None:
    """A permanently unreachable hub, under a guardian."""
    (port,) = free_ports(1)
    settings = {
        "OFA_LOAD_ATTEMPTS": 1,
        "MAX_RESTARTS": 3,
        "BACKOFF_LIMIT": 1,
        "MODELSCOPE_CACHE": run_dir / "cache",
    }
    with _guarded(run_dir, MODEL, MODELSCOPE_ENDPOINT=f"http://127.0.0.1:{port}", **settings) as service:
        service.guardians[0].wait(GIVING_UP_SECONDS)


def halted(run_dir: Path) -> None:
    with Hub() as hub:
        told = {"MODELSCOPE_ENDPOINT": hub.endpoint, "MODELSCOPE_CACHE": run_dir / "cache"}
        with _guarded(run_dir, "nobody/nothing", **told) as service:
            service.guardians[0].wait(GIVING_UP_SECONDS)


def stranger(run_dir: Path) -> None:
    def make(service: Service) -> None:
        stranger = service.hold_port()
        try:
            wait_for("a name", lambda: f"in use by process {stranger.pid} (" in service.restart_log)
        finally:
            stranger.kill()
            stranger.communicate()

    _restarted(run_dir, make)


def second(run_dir: Path) -> None:
    """An instance that was started by hand holds the guardian's ports."""
    ports = free_ports(2)
    with Instance(run_dir / "other", "--model", "demo", ports=(ports[0], ports[1])) as other:
        other.wait_for("the health port", lambda: other.get("/livez")[0] == 200)
        told = {"OFA_PORT": ports[0], "OFA_HEALTH_PORT": ports[1], "MAX_RESTARTS": 1, "BACKOFF_LIMIT": 1}
        with _guarded(run_dir, **told) as service:
            service.guardians[0].wait(GIVING_UP_SECONDS)


def silent(run_dir: Path) -> None:
    """Killed without a guardian and started again."""
    with _instance(run_dir) as instance:
        _ask(instance, 2)
        os.kill(instance.process.pid, signal.SIGKILL)
        instance.process.wait()
    with _instance(run_dir) as instance:
        _ask(instance, 2)

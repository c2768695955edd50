"""The faults whose logs are recorded: how each is brought upon a real process, and what the doctor must name.

``record`` gets an empty run folder and returns when everything worth keeping has been written. Every process
it starts is gone by then.
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
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tests.faults.service import Service
from tests.faults.users import Outcome, ask, red_circle
from tests.guardian.harness import wait_for
from tests.hub.conftest import MODEL, WEIGHTS, fake_model
from tests.hub.server import Hub
from tests.instance import Instance
from tests.ports import free_ports

TEXT = "there is a red circle"
INSIDE = "tests/faults/inside.py"
LAUNCHER = "tests/doctor/launcher.py"
QUICK = {"OMP_NUM_THREADS": "1", "OFA_THREADS": "1", "OFA_PROBE_TIMEOUT": "30", "VITALS_PERIOD": "1"}


@dataclass(frozen=True)
class Recording:
    """``names`` are the codes the doctor must find, and no others. ``metric`` is a series that rises with the
    fault, as the last scrape before the process ended shows it, or a word for what Prometheus sees by itself;
    ``alert`` is one that goes by it."""

    name: str
    title: str
    names: tuple[str, ...]
    record: Callable[[Path], None]
    metric: str = ""
    alert: str = ""


def _scrape(run_dir: Path, port: int) -> None:
    """Keeps what /metrics says now, if it says anything."""
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        (run_dir / "metrics.txt").write_bytes(answer.read())


def _ask(instance: Instance, count: int, *, text: str = TEXT, picture: bytes = b"") -> list[Outcome]:
    return [ask(instance.page, picture or red_circle(), text) for _ in range(count)]


def _at_once(instance: Instance, users: int, each: int) -> None:
    with ThreadPoolExecutor(users) as pool:
        list(pool.map(lambda _: _ask(instance, each), range(users)))


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
    """A healthy instance of the demo model; ended in order unless it has ended before."""
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
    """An instance that ends because it cannot load."""
    (port,) = free_ports(1)
    endpoint = hub.endpoint if hub is not None else f"http://127.0.0.1:{port}"
    with Instance(
        run_dir,
        *("--model", model, "--load-attempts", "2", "--load-pause", "0.1", *arguments),
        program="health_api.py",
        environment={"MODELSCOPE_ENDPOINT": endpoint, "MODELSCOPE_CACHE": str(cache)},
    ) as instance:
        while instance.process.poll() is None:
            _scrape(run_dir, instance.health_port)
            time.sleep(0.02)


def _cut(run_dir: Path) -> None:
    with Hub() as hub:
        hub.repositories[MODEL, "master"] = fake_model()
        hub.faults.cut_after[WEIGHTS] = [1000] * 1000
        _load(run_dir, hub, run_dir / "cache")


def _damaged(run_dir: Path) -> None:
    with Hub() as hub:
        hub.repositories[MODEL, "master"] = fake_model()
        hub.faults.flipped[WEIGHTS] = 1000
        _load(run_dir, hub, run_dir / "cache")


def _wrong_id(run_dir: Path) -> None:
    with Hub() as hub:
        _load(run_dir, hub, run_dir / "cache", model="nobody/nothing")


def _no_network(run_dir: Path) -> None:
    _load(run_dir, None, run_dir / "cache")


def _full_disk(run_dir: Path) -> None:
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


def _no_gpu(run_dir: Path) -> None:
    _load(run_dir, None, run_dir / "cache", "--device", "cuda:7", model="demo")


def _fp16(run_dir: Path) -> None:
    _load(run_dir, None, run_dir / "cache", "--device", "cpu", "--dtype", "fp16", model="demo")


# ---- time and memory ---------------------------------------------------------------------------------------


def _healthy(run_dir: Path) -> None:
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


def _drift(run_dir: Path) -> None:
    """The classic: the same questions that took 3 s take 21."""
    with _instance(run_dir, LAUNCHER, "--timeout", "60", PROBE_INTERVAL="600") as instance:
        for seconds in (3.0, 21.0):
            _worse(run_dir, judge=seconds)
            _ask(instance, 10)


def _creep(run_dir: Path) -> None:
    with _instance(run_dir, PROBE_INTERVAL="600", VITALS_PERIOD="20") as instance:
        _ask(instance, 5)
        _worse(run_dir, leak=4 << 20)
        for _ in range(140):
            _ask(instance, 1)
            time.sleep(5)


def _overload(run_dir: Path) -> None:
    with _instance(run_dir, LAUNCHER, "--queue-size", "4", "--timeout", "4") as instance:
        _worse(run_dir, judge=1.5)
        _at_once(instance, 12, 4)


def _long_texts(run_dir: Path) -> None:
    with _instance(run_dir, LAUNCHER, "--timeout", "3", PROBE_INTERVAL="600") as instance:
        _worse(run_dir, char=0.006)
        for n in range(12):
            _ask(instance, 1, text="a red circle, and " * 50 if n % 2 else "a circle")


def _large_pictures(run_dir: Path) -> None:
    file = io.BytesIO()
    Image.new("RGB", (3000, 2000), "red").save(file, "PNG")
    with _instance(run_dir, LAUNCHER, "--timeout", "3", PROBE_INTERVAL="600") as instance:
        _worse(run_dir, megapixel=0.55)
        for n in range(12):
            _ask(instance, 1, picture=file.getvalue() if n % 2 else b"")


def _clock(run_dir: Path) -> None:
    with _instance(run_dir) as instance:
        _ask(instance, 2)
        time.sleep(4)
        _worse(run_dir, clock=-900)
        time.sleep(4)
        _ask(instance, 2)


def _standstill(run_dir: Path) -> None:
    with _instance(run_dir) as instance:
        _ask(instance, 2)
        time.sleep(8)
        os.kill(instance.process.pid, signal.SIGSTOP)
        time.sleep(25)
        os.kill(instance.process.pid, signal.SIGCONT)
        time.sleep(5)


def _gap(run_dir: Path) -> None:
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
    """Questions to an instance with a (pretended) GPU in which a fault is made."""
    with _instance(run_dir, INSIDE, PRETEND_CUDA="1", OFA_TRIAL_PAUSE="0.5", **environment) as instance:
        _ask(instance, 2)
        _order(run_dir, fault)
        _ask(instance, count)
        if instance.process.poll() is None:
            _order(run_dir, "{}")
            time.sleep(4)
            _ask(instance, 2)


def _oom(run_dir: Path) -> None:
    _pretended(run_dir, '{"kind": "oom", "on": "cuda"}', 6)


def _nan(run_dir: Path) -> None:
    _pretended(run_dir, '{"kind": "nan", "times": 4}', 4, PROBE_INTERVAL="600")


def _memory(run_dir: Path) -> None:
    _pretended(run_dir, '{"kind": "memory", "times": 20}', 5, OFA_DEVICE="cpu", PROBE_INTERVAL="600")


def _unstable(run_dir: Path) -> None:
    with _instance(run_dir, INSIDE, PROBE_INTERVAL="0.5", OFA_GOLDEN_INTERVAL="0.5") as instance:
        _order(run_dir, '{"kind": "nan", "times": 3}')
        instance.wait_for("the reload", lambda: instance.log.count("MODEL_LOADED") == 2)
        instance.wait_healthy()


# ---- restarts ----------------------------------------------------------------------------------------------


@contextmanager
def _guarded(run_dir: Path, model: str = "demo", **settings: object) -> Iterator[Service]:
    told = {"STABLE_PERIOD": 600, "OMP_NUM_THREADS": 1, "OFA_PROBE_TIMEOUT": 30}
    with Service(run_dir, model, **told | settings) as service:
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
        wait_for("the last word", lambda: "[SUCCESS]" in service.restart_log)


def _signal(number: int) -> Callable[[Path], None]:
    return lambda run_dir: _restarted(run_dir, lambda service: os.kill(service.pid, number))


def _ordered(fault: str) -> Callable[[Path], None]:
    def record(run_dir: Path) -> None:
        def make(service: Service) -> None:
            _order(run_dir, fault)
            if fault == "forward":
                ask(service.page, red_circle(), TEXT)

        _restarted(run_dir, make, OFA_TIMEOUT=2, OFA_CANCEL_GRACE=1, OFA_HANG_LIMIT=2)

    return record


def _inside(run_dir: Path, fault: str, **settings: object) -> None:
    """A fault inside the process under a guardian, whose interpreter starts the faulty launcher."""
    with _guarded(run_dir, **settings) as service:
        interpreter = run_dir / "python"
        interpreter.write_text(interpreter.read_text().replace("launcher.py", "inside.py"))
        service.command("restart")
        wait_for("the faulty one", lambda: service.text("web_app.log").count("MODEL_LOADED") >= 1)
        service.wait_until_healthy()
        first = service.pid
        _order(run_dir, fault)
        while service.pid == first:
            ask(service.page, red_circle(), TEXT)
        (run_dir / "fault.json").unlink()
        service.wait_until_healthy(other_than=first)
        wait_for("the last word", lambda: "[SUCCESS]" in service.restart_log)


def _lost(run_dir: Path) -> None:
    _inside(run_dir, '{"kind": "assert", "on": "cuda"}', PRETEND_CUDA=1)


def _limit(run_dir: Path) -> None:
    _inside(run_dir, '{"kind": "grow"}', OFA_MAX_RSS="1200M")


def _loop(run_dir: Path) -> None:
    """A hub that is away for good, under a guardian."""
    (port,) = free_ports(1)
    settings = {
        "OFA_LOAD_ATTEMPTS": 1,
        "MAX_RESTARTS": 3,
        "BACKOFF_LIMIT": 1,
        "MODELSCOPE_CACHE": run_dir / "cache",
    }
    with _guarded(run_dir, MODEL, MODELSCOPE_ENDPOINT=f"http://127.0.0.1:{port}", **settings) as service:
        service.wait_exit(service.guardians[0])


def _halted(run_dir: Path) -> None:
    with Hub() as hub:
        told = {"MODELSCOPE_ENDPOINT": hub.endpoint, "MODELSCOPE_CACHE": run_dir / "cache"}
        with _guarded(run_dir, "nobody/nothing", **told) as service:
            service.wait_exit(service.guardians[0])


def _stranger(run_dir: Path) -> None:
    def make(service: Service) -> None:
        stranger = service.hold_port()
        try:
            wait_for("a name", lambda: f"taken by process {stranger.pid} (" in service.restart_log)
        finally:
            stranger.kill()
            stranger.communicate()

    _restarted(run_dir, make)


def _second(run_dir: Path) -> None:
    """Somebody has started an instance by hand, and the guardian finds it on its ports."""
    ports = free_ports(2)
    with Instance(run_dir / "other", "--model", "demo", ports=(ports[0], ports[1])) as other:
        other.wait_for("the health port", lambda: other.get("/livez")[0] == 200)
        told = {"OFA_PORT": ports[0], "OFA_HEALTH_PORT": ports[1], "MAX_RESTARTS": 1, "BACKOFF_LIMIT": 1}
        with _guarded(run_dir, **told) as service:
            service.wait_exit(service.guardians[0])


def _silent(run_dir: Path) -> None:
    """Killed without a guardian, and started again by hand."""
    with _instance(run_dir) as instance:
        _ask(instance, 2)
        os.kill(instance.process.pid, signal.SIGKILL)
        instance.process.wait()
    with _instance(run_dir) as instance:
        _ask(instance, 2)


LOADS = "ofa_model_load_attempts_total"
RESTARTS = "ofa_restarts_total"
UP = "up"  # Prometheus' own: 0 while nobody answers
RECORDINGS = (
    Recording("healthy", "no fault", (), _healthy),
    Recording(
        *("cut", "a download that is cut again and again", ("download-cut",), _cut),
        *(f'{LOADS}{{outcome="download_interrupted"}}', "OfaModelLoadFailing"),
    ),
    Recording(
        *("damaged", "a file that the hub sends damaged", ("file-damaged",), _damaged),
        *(f'{LOADS}{{outcome="damaged_file"}}', "OfaModelLoadFailing"),
    ),
    Recording(
        *("wrong-id", "an id the hub does not have", ("model-not-found",), _wrong_id),
        *(f'{LOADS}{{outcome="model_not_found"}}', "OfaDown"),
    ),
    Recording(
        *("no-network", "a hub that does not answer", ("hub-unreachable",), _no_network),
        *(f'{LOADS}{{outcome="hub_unavailable"}}', "OfaModelLoadFailing"),
    ),
    Recording(
        *("full-disk", "a disk without room for the model", ("disk-full",), _full_disk),
        *(f'{LOADS}{{outcome="disk_full"}}', "OfaModelLoadFailing"),
    ),
    Recording(
        *("no-gpu", "a GPU asked for that is not there", ("device-missing",), _no_gpu),
        *(f'{LOADS}{{outcome="missing_dependency"}}', "OfaDown"),
    ),
    Recording(
        *("fp16", "a precision the device does not have", ("dtype-unsupported",), _fp16),
        *(f'{LOADS}{{outcome="unsupported_model"}}', "OfaDown"),
    ),
    Recording(
        *("drift", "like questions, 3 s at first and 21 s later", ("latency-drift",), _drift),
        *('ofa_request_stage_duration_seconds_sum{stage="compute"}', "OfaLatencyDrift"),
    ),
    Recording(
        *("creep", "a leak of 4 MiB a question", ("memory-creep",), _creep),
        *("process_resident_memory_bytes", "OfaMemoryCreep"),
    ),
    Recording(
        *("overload", "twelve users, a slow model, a queue of four", ("overload",), _overload),
        *('ofa_rejections_total{reason="busy"}', "OfaOverloaded"),
    ),
    Recording(
        *("long-texts", "a model that is slow on long texts", ("timeouts-long-text",), _long_texts),
        *('ofa_timeouts_total{stage="computing"}', "OfaTimeouts"),
    ),
    Recording(
        "large-pictures",
        "a machine that is slow on large pictures",
        ("timeouts-large-picture",),
        _large_pictures,
        *('ofa_timeouts_total{stage="waiting"}', "OfaTimeouts"),
    ),
    Recording("clock", "the clock set back by 15 minutes", ("clock-jump",), _clock),
    Recording("standstill", "the process stopped for 25 s", ("standstill",), _standstill, UP, "OfaDown"),
    Recording(
        *("gap", "a full disk under the logs", ("log-gap",), _gap),
        *("ofa_log_lines_lost_total", "OfaLogLinesLost"),
    ),
    Recording(
        *("oom", "a GPU without memory for a while", ("gpu-memory-full", "time-on-cpu"), _oom),
        *('ofa_out_of_memory_events_total{next="CPU"}', "OfaOutOfMemory"),
    ),
    Recording(
        *("host-memory", "a machine without memory for a while", ("memory-full",), _memory),
        *('ofa_out_of_memory_events_total{next="none left"}', "OfaOutOfMemory"),
    ),
    Recording(
        *("nan", "scores that are no numbers", ("scores-not-finite",), _nan),
        *('ofa_requests_total{outcome="error",source="api"}', "OfaErrorBudgetBurnFast"),
    ),
    Recording(
        *("unstable", "a probe that is wrong three times", ("probe-unstable",), _unstable),
        *('ofa_probes_total{outcome="unstable"}', "OfaUnstable"),
    ),
    Recording(
        *("kill", "kill -9", ("killed",), _signal(signal.SIGKILL)),
        *(f'{RESTARTS}{{cause="signal"}}', "OfaRestarted"),
    ),
    Recording(
        *("stop", "SIGSTOP under a guardian", ("hung",), _signal(signal.SIGSTOP)),
        *(f'{RESTARTS}{{cause="hung"}}', "OfaRestarted"),
    ),
    Recording(
        "gil",
        "a thread that keeps the interpreter's lock",
        ("hung",),
        _ordered("gil"),
        *(f'{RESTARTS}{{cause="hung"}}', "OfaRestarted"),
    ),
    Recording(
        *("forward", "a forward pass that never returns", ("hung",), _ordered("forward")),
        *(f'{RESTARTS}{{cause="hung"}}', "OfaRestarted"),
    ),
    Recording(
        *("term", "SIGTERM from outside", ("ended-from-outside",), _signal(signal.SIGTERM)),
        *(f'{RESTARTS}{{cause="ended"}}', "OfaRestarted"),
    ),
    Recording(
        *("device-lost", "a device-side assert", ("device-lost",), _lost),
        *(f'{RESTARTS}{{cause="device_lost"}}', "OfaRestarted"),
    ),
    Recording(
        *("memory-limit", "a leak with --max-rss", ("memory-limit",), _limit),
        *(f'{RESTARTS}{{cause="memory_limit"}}', "OfaRestarted"),
    ),
    Recording(
        "loop",
        "a hub that is away for good, under a guardian",
        ("restart-loop", "gave-up", "hub-unreachable"),
        _loop,
        *(f'{RESTARTS}{{cause="failed"}}', "OfaRestartLoop"),
    ),
    Recording(
        *("halted", "a wrong id, under a guardian", ("halted", "model-not-found"), _halted),
        *(UP, "OfaDown"),
    ),
    Recording(
        *("stranger", "a stranger on the health port", ("port-taken", "killed"), _stranger),
        *(f'{RESTARTS}{{cause="port_taken"}}', "OfaDown"),
    ),
    Recording(
        *("second", "two instances on one port", ("two-instances", "gave-up"), _second),
        *(f'{RESTARTS}{{cause="port_taken"}}', "OfaRestarted"),
    ),
    Recording("silent", "killed without a guardian", ("died-silently",), _silent, UP, "OfaDown"),
)

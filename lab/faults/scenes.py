"""What surrounds a guarded instance: its model and where that comes from, its disks, clock, memory, GPU.

A scene is a context manager over a folder of its own. It yields the command line and environment of the
instance, and what a fault needs to get at. ``Missing`` says why a scene cannot be had on this machine.
"""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from lab.instances.hub import Hub
from service.hub.resolve import DEMO_FOLDER

HUB_ID = "hub-of-faults/demo"  # no folder of this repository: that would be taken instead
CGROUPS = Path("/sys/fs/cgroup")
MEMORY_BYTES = 1400 << 20


class Missing(Exception):
    """This machine lacks what the scene needs."""


@dataclass
class Scene:
    """``model`` is the folder whose files a fault may damage: the cache's, of a hub's model, or its own."""

    folder: Path
    arguments: tuple[str, ...] = ("--model", "demo")
    settings: dict[str, object] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()  # of the guardian
    hub: Hub | None = None
    model: Path = DEMO_FOLDER
    disk: Path | None = None  # a small file system
    notes: list[str] = field(default_factory=list)  # what a fault measured by itself

    @property
    def weights(self) -> Path:
        return self.model / "pytorch_model.bin"

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"


Setting = Callable[[Path], AbstractContextManager[Scene]]


@contextmanager
def demo(folder: Path) -> Iterator[Scene]:
    """The bundled model."""
    yield Scene(folder)


def with_settings(*arguments: str, **settings: object) -> Setting:
    """The bundled model, and more on the command line and in the environment."""

    @contextmanager
    def scene(folder: Path) -> Iterator[Scene]:
        yield Scene(folder, ("--model", "demo", *arguments), dict(settings))

    return scene


@contextmanager
def copied(folder: Path) -> Iterator[Scene]:
    """The bundled model's files in a folder of their own, given with --model."""
    model = folder / "model"
    shutil.copytree(DEMO_FOLDER, model, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    yield Scene(folder, ("--model", str(model)), {"PROBE_INTERVAL": 2}, model=model)


@contextmanager
def fetched(folder: Path) -> Iterator[Scene]:
    """The same files from a hub on this machine, in a cache of their own."""
    with Hub() as hub:
        hub.repositories[HUB_ID, "master"] = {
            str(path.relative_to(DEMO_FOLDER)): path.read_bytes()
            for path in DEMO_FOLDER.rglob("*")
            if path.is_file() and path.suffix not in (".py", ".pyc")
        }
        cache = folder / "cache"
        cache.mkdir()
        yield Scene(
            folder,
            ("--model", HUB_ID, "--hub-endpoint", hub.endpoint, "--cache-dir", str(cache)),
            {"PROBE_INTERVAL": 2},
            hub=hub,
            model=cache / "models" / HUB_ID.replace("/", "--") / "snapshots" / "master",
        )


@contextmanager
def fetched_to_small_disk(folder: Path) -> Iterator[Scene]:
    """As ``fetched``, the cache on a disk that has just room for it."""
    with fetched(folder) as scene, _small_disk(folder / "cache", "40m"):
        scene.disk = folder / "cache"
        yield scene


@contextmanager
def logging_to_small_disk(folder: Path) -> Iterator[Scene]:
    """The run-time folder on a disk of its own."""
    scene = Scene(folder, disk=folder / "run")
    scene.run_dir.mkdir()
    with _small_disk(scene.run_dir, "4m"):
        yield scene


@contextmanager
def _small_disk(path: Path, size: str) -> Iterator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"a small disk needs root and the right to mount ({done.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> None:
    """Leave no byte free."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError:
            pass


@contextmanager
def faked_clock(folder: Path) -> Iterator[Scene]:
    """Instance and guardian read the time of day from the file ``clock``; the monotonic clock stays true."""
    found = glob.glob("/usr/lib*/*/faketime/libfaketimeMT.so.1") + glob.glob("/usr/*/lib/faketime/*MT.so.1")
    if not found:
        raise Missing("libfaketime is not installed (Debian: apt-get install faketime)")
    clock = folder / "clock"
    clock.write_text("+0")
    yield Scene(
        folder,
        settings={
            "LD_PRELOAD": found[0],
            "FAKETIME_TIMESTAMP_FILE": clock,
            "FAKETIME_NO_CACHE": 1,
            "FAKETIME_DONT_FAKE_MONOTONIC": 1,
            "PROBE_INTERVAL": 1,
        },
    )


@contextmanager
def pretended_gpu(folder: Path) -> Iterator[Scene]:
    """A GPU: the real one, or one that torch is made to believe in."""
    yield Scene(folder, settings={"PRETEND_CUDA": 1, "OFA_TRIAL_PAUSE": 2})


@contextmanager
def little_memory(folder: Path) -> Iterator[Scene]:
    """A cgroup whose memory the kernel limits, around guardian and instance."""
    v1 = CGROUPS / "memory"
    group = (v1 if v1.is_dir() else CGROUPS) / f"faults-{os.getpid()}"
    limit = "memory.limit_in_bytes" if v1.is_dir() else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(MEMORY_BYTES))
    except OSError as error:
        raise Missing(f"no memory cgroup can be made here ({error.strerror})") from error
    try:
        enter = f'echo $$ > {group}/cgroup.procs; exec "$@"'
        yield Scene(folder, prefix=("sh", "-c", enter, "sh"))
    finally:
        _empty(group)


def _empty(group: Path) -> None:
    """Remove a cgroup; its last processes, killed a moment ago, may still be on their way out."""
    for _ in range(200):
        try:
            group.rmdir()
            return
        except OSError:
            subprocess.run(["sleep", "0.05"], check=True)


@contextmanager
def own_pids(folder: Path) -> Iterator[Scene]:
    """A PID namespace, in which the next number can be chosen; see FIRST_PROCESS."""
    namespace = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    tried = subprocess.run([*namespace, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise Missing(f"no PID namespace can be made here ({tried.stderr.strip()})")
    yield Scene(folder, prefix=(*namespace, "sh", "-c", FIRST_PROCESS, "sh"))


# Reaps whatever ends here, and when told takes the number of the instance that just died for another process.
FIRST_PROCESS = """
"$@" &
guardian=$!
while [ ! -e "$OFA_RUN_DIR/reuse" ]; do sleep 0.05; done
instance=$(head -n 1 "$OFA_RUN_DIR/web_app.pid")
kill -9 "$guardian"
wait "$guardian"
kill -9 "$instance"
while [ -e "/proc/$instance" ]; do sleep 0.05; done
echo $((instance - 1)) > /proc/sys/kernel/ns_last_pid
sleep 3600 &
echo "$instance $!" > "$OFA_RUN_DIR/reused"
sleeper=$!
"$@" &
guardian=$!
while [ ! -e "$OFA_RUN_DIR/look" ]; do sleep 0.05; done
kill -0 "$sleeper" && echo unharmed > "$OFA_RUN_DIR/looked" || echo signalled > "$OFA_RUN_DIR/looked"
wait "$guardian"
"""

"""Environments of a guarded instance: model source, disks, clock, memory, GPU.

A scene is a context manager over a folder. It yields the command line and environment of the instance, and
what a fault needs. ``Missing`` says why this machine cannot provide the scene.
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

HUB_ID = "hub-of-faults/demo"  # must not be an existing folder, which would be used instead
CGROUPS = Path("/sys/fs/cgroup")
MEMORY_BYTES = 1400 << 20


class Missing(Exception):
    """This machine cannot provide the scene; the message says why."""


@dataclass
class Scene:
    """``model`` is the folder whose files a fault may damage: in the hub cache, or a local copy."""

    folder: Path
    arguments: tuple[str, ...] = ("--model", "demo")
    settings: dict[str, object] = field(default_factory=dict)
    prefix: tuple[str, ...] = ()  # command before the guardian's
    hub: Hub | None = None
    model: Path = DEMO_FOLDER
    disk: Path | None = None  # a small file system
    notes: list[str] = field(default_factory=list)  # figures of the fault itself

    @property
    def weights(self) -> Path:
        return self.model / "pytorch_model.bin"

    @property
    def run_dir(self) -> Path:
        return self.folder / "run"


Setting = Callable[[Path], AbstractContextManager[Scene]]


@contextmanager
def demo(folder: Path) -> Iterator[Scene]:
    """Use the bundled model."""
    yield Scene(folder)


def with_settings(*arguments: str, **settings: object) -> Setting:
    """Use the bundled model with more flags and environment variables."""

    @contextmanager
    def scene(folder: Path) -> Iterator[Scene]:
        yield Scene(folder, ("--model", "demo", *arguments), dict(settings))

    return scene


@contextmanager
def copied(folder: Path) -> Iterator[Scene]:
    """Use a copy of the bundled model, given with --model."""
    model = folder / "model"
    shutil.copytree(DEMO_FOLDER, model, ignore=shutil.ignore_patterns("*.py", "__pycache__"))
    yield Scene(folder, ("--model", str(model)), {"PROBE_INTERVAL": 2}, model=model)


@contextmanager
def fetched(folder: Path) -> Iterator[Scene]:
    """Download the same files from a local hub into an empty cache."""
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
    """As ``fetched``, with the cache on a disk just large enough."""
    with fetched(folder) as scene, _small_disk(folder / "cache", "40m"):
        scene.disk = folder / "cache"
        yield scene


@contextmanager
def logging_to_small_disk(folder: Path) -> Iterator[Scene]:
    """Put the run directory on a small disk."""
    scene = Scene(folder, disk=folder / "run")
    scene.run_dir.mkdir()
    with _small_disk(scene.run_dir, "4m"):
        yield scene


@contextmanager
def _small_disk(path: Path, size: str) -> Iterator[None]:
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode:
        raise Missing(f"a small disk needs root and permission to mount ({done.stderr.strip()})")
    try:
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path) -> None:
    """Fill the disk completely."""
    with (disk / "filler").open("wb", buffering=0) as filler:
        try:
            while filler.write(bytes(4096)):
                pass
        except OSError:
            pass


@contextmanager
def faked_clock(folder: Path) -> Iterator[Scene]:
    """Take the wall clock of instance and guardian from the file ``clock``; the monotonic clock is real."""
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
def simulated_gpu(folder: Path) -> Iterator[Scene]:
    """Use a GPU, real or simulated."""
    yield Scene(folder, settings={"PRETEND_CUDA": 1, "RETRY_GPU_PAUSE": 2})


@contextmanager
def little_memory(folder: Path) -> Iterator[Scene]:
    """Run guardian and instance in a cgroup with a memory limit."""
    v1 = CGROUPS / "memory"
    group = (v1 if v1.is_dir() else CGROUPS) / f"faults-{os.getpid()}"
    limit = "memory.limit_in_bytes" if v1.is_dir() else "memory.max"
    try:
        group.mkdir()
        (group / limit).write_text(str(MEMORY_BYTES))
    except OSError as error:
        raise Missing(f"cannot create a memory cgroup ({error.strerror})") from error
    try:
        enter = f'echo $$ > {group}/cgroup.procs; exec "$@"'
        yield Scene(folder, prefix=("sh", "-c", enter, "sh"))
    finally:
        _empty(group)


def _empty(group: Path) -> None:
    """Remove a cgroup; retry while its killed processes exit."""
    for _ in range(200):
        try:
            group.rmdir()
            return
        except OSError:
            subprocess.run(["sleep", "0.05"], check=True)


@contextmanager
def own_pids(folder: Path) -> Iterator[Scene]:
    """Run in a PID namespace, in which the next PID can be chosen; see FIRST_PROCESS."""
    namespace = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
    tried = subprocess.run([*namespace, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise Missing(f"cannot create a PID namespace ({tried.stderr.strip()})")
    yield Scene(folder, prefix=(*namespace, "sh", "-c", FIRST_PROCESS, "sh"))


# PID 1: on request kills the instance and starts another process with the same PID.
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

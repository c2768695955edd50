"""Functions that inject faults, and checks of the outcome.

All take the service and its scene. An injector may return a function that removes the fault; a check returns
a list of violated requirements.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import torch

from lab.faults import scenes
from lab.faults.fault import Afterwards
from lab.faults.scenes import Scene
from lab.faults.service import Service
from lab.instances.guarded import stat_of, wait_for


def send(number: int) -> Callable[[Service, Scene], None]:
    return lambda service, _: os.kill(service.pid, number)


def ordered(kind: str, **more: object) -> Callable[[Service, Scene], Afterwards]:
    """Inject a fault into the next forward passes of the current process."""

    def make(service: Service, _: Scene) -> Afterwards:
        order(service, kind=kind, pid=service.pid, **more)
        return lambda: order(service)

    return make


def order(service: Service, **fault: object) -> None:
    """Select a fault of lab/faults/inside.py; none without keywords."""
    part = service.run_dir / "fault.part"
    part.write_text(json.dumps(fault))
    part.rename(service.run_dir / "fault.json")


def nothing(_: Service, __: Scene) -> None:
    pass


def stop_for(seconds: float) -> Callable[[Service, Scene], None]:
    def make(service: Service, _: Scene) -> None:
        os.kill(service.pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(service.pid, signal.SIGCONT)

    return make


def kill_guardian(service: Service, _: Scene) -> None:
    guardian = service.guardians[-1]
    guardian.kill()
    guardian.wait()
    service.start()
    wait_for("adoption", lambda: "adopted process" in service.output, lambda: service.output)


def second_guardian(service: Service, _: Scene) -> None:
    second = service.command()
    assert second.returncode == 3, f"a second guardian exited with {second.returncode}: {second.stderr}"


def take_port(service: Service, _: Scene) -> Afterwards:
    stranger = service.hold_port()

    def release() -> None:
        alive = stranger.poll() is None
        stranger.kill()
        stranger.communicate()
        assert alive, "the other process was killed"

    return release


def take_port_elsewhere(service: Service, _: Scene) -> Afterwards:
    """Listen on the same port of another address, which must not matter."""
    at = f"('127.0.0.9', {service.health_port})"
    listen = f"import socket, time; s = socket.create_server({at}); time.sleep(3600)"
    stranger = subprocess.Popen([sys.executable, "-SEc", listen])
    os.kill(service.pid, signal.SIGKILL)

    def release() -> None:
        stranger.kill()
        stranger.wait()

    return release


def reuse_pid(service: Service, _: Scene) -> None:
    (service.run_dir / "reuse").touch()
    wait_for(
        "the reuse of the PID",
        lambda: service.text("reused").endswith("\n"),
        lambda: service.output,
    )


def unharmed_stranger(service: Service, _: Scene) -> list[str]:
    first, again = service.text("reused").split()
    (service.run_dir / "look").touch()
    wait_for("the check of the other process", lambda: service.text("looked").endswith("\n"))
    wrong = [] if first == again else ["the PID could not be reused"]
    return wrong + ([] if service.text("looked") == "unharmed\n" else ["another process was signalled"])


def deaf(service: Service, _: Scene) -> None:
    order(service, kind="deaf", pid=service.pid)
    wait_for("SIGTERM to be ignored", lambda: ignores_term(service.pid))
    order(service)
    assert service.command("restart").returncode == 0


def ignores_term(pid: int) -> bool:
    with open(f"/proc/{pid}/status") as status:
        (ignored,) = [int(line.split()[1], 16) for line in status if line.startswith("SigIgn:")]
    return bool(ignored >> (signal.SIGTERM - 1) & 1)


def orphan(service: Service, _: Scene) -> None:
    order(service, kind="orphan", pid=service.pid, times=1)
    wait_for("the orphan", lambda: service.text("orphan"))
    os.kill(service.pid, signal.SIGKILL)


def orphan_gone(service: Service, _: Scene) -> list[str]:
    return [] if stat_of(int(service.text("orphan")))[:1] in ([], ["Z"]) else ["the orphan still runs"]


def step_clock(*offsets: str) -> Callable[[Service, Scene], None]:
    def make(service: Service, scene: Scene) -> None:
        for offset in offsets:
            _set_clock(service, scene, offset)

    return make


def _set_clock(service: Service, scene: Scene, offset: str) -> None:
    """Step the clock; wait for a guardian's check and two answers."""
    (scene.folder / "clock.part").write_text(offset)
    (scene.folder / "clock.part").rename(scene.folder / "clock")
    answered = service.log.count("REQUEST_END")
    time.sleep(6.0)  # longer than the guardian's check interval
    wait_for(
        f"two answers after a step to {offset}",
        lambda: service.log.count("REQUEST_END") > answered + 1,
        lambda: service.log[-2000:],
    )


def clock_was_read(service: Service, _: Scene) -> list[str]:
    days = {line[:10] for line in service.log.splitlines() if line[:2] == "20"}
    return [] if len(days) > 2 else ["the instance did not see the clock steps"]


# ---- models and where they come from ---------------------------------------------------------------------


def truncate(scene: Scene) -> None:
    replace(scene, scene.weights.read_bytes()[: scene.weights.stat().st_size // 2])


def corrupt(scene: Scene) -> None:
    content = bytearray(scene.weights.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(byte ^ 255 for byte in content[middle : middle + 64])
    replace(scene, content)


def remove(scene: Scene) -> None:
    scene.weights.unlink()


def spoil(scene: Scene) -> None:
    """Write readable weights that only produce NaN."""
    state = torch.load(scene.weights, weights_only=True)
    name = next(name for name, value in state.items() if value.is_floating_point() and value.dim() > 1)
    state[name] = torch.full_like(state[name], float("nan"))
    part = scene.weights.with_name("part")
    torch.save(state, part)
    part.replace(scene.weights)


def cut_in_place(_: Service, scene: Scene) -> None:
    """Truncate the file that the process has memory-mapped."""
    os.truncate(scene.weights, scene.weights.stat().st_size // 2)


def replace(scene: Scene, content: bytes | bytearray) -> None:
    """Write a new file, since the running process has the old one memory-mapped."""
    part = scene.weights.with_name("part")
    part.write_bytes(content)
    part.replace(scene.weights)


def damage(how: Callable[[Scene], None]) -> Callable[[Service, Scene], None]:
    """Damage the files and kill the instance, so that the next one loads them."""

    def make(service: Service, scene: Scene) -> None:
        how(scene)
        os.kill(service.pid, signal.SIGKILL)

    return make


def forget(service: Service, scene: Scene) -> None:
    """Empty the cache and kill the instance, so that the next one fills it."""
    assert scene.hub is not None
    scene.hub.forget()
    for path in sorted(scene.model.parent.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    os.kill(service.pid, signal.SIGKILL)


def hub_down(service: Service, scene: Scene) -> Afterwards:
    assert scene.hub is not None
    faults = scene.hub.faults
    faults.list_status = [503] * 10_000
    forget(service, scene)
    return faults.list_status.clear


def hub_not_needed(service: Service, scene: Scene) -> Afterwards:
    assert scene.hub is not None
    scene.hub.forget()
    faults = scene.hub.faults
    faults.list_status = [503] * 10_000
    os.kill(service.pid, signal.SIGKILL)
    return faults.list_status.clear


def hub_slow(service: Service, scene: Scene) -> None:
    assert scene.hub is not None
    scene.hub.faults.pause = 0.02  # 18 MB in chunks of 16 KiB: at least 20 s
    forget(service, scene)


def hub_cuts(service: Service, scene: Scene) -> None:
    assert scene.hub is not None
    scene.hub.faults.cut_after["pytorch_model.bin"] = [5_000_000, 5_000_000]
    forget(service, scene)


def resumed(service: Service, scene: Scene) -> list[str]:
    assert scene.hub is not None
    ranges = scene.hub.ranges("pytorch_model.bin")
    sent, size = scene.hub.sent["pytorch_model.bin"], scene.weights.stat().st_size
    return [] if sent == size and len(ranges) > 1 else [f"{sent} of {size} bytes sent in {len(ranges)} parts"]


def once_more(expected: int) -> Callable[[Service, Scene], list[str]]:
    def check(service: Service, _: Scene) -> list[str]:
        return [] if service.alerts == expected else [f"{service.alerts} restarts, not {expected}"]

    return check


def both(*checks: Callable[[Service, Scene], list[str]]) -> Callable[[Service, Scene], list[str]]:
    return lambda service, scene: list(itertools.chain(*(check(service, scene) for check in checks)))


# ---- disks -----------------------------------------------------------------------------------------------


def fill_logs(service: Service, scene: Scene) -> Afterwards:
    assert scene.disk is not None
    disk = scene.disk
    scenes.fill(disk)
    return (disk / "filler").unlink


def fill_cache(service: Service, scene: Scene) -> Afterwards:
    assert scene.disk is not None
    disk = scene.disk
    forget(service, scene)
    scenes.fill(disk)
    return (disk / "filler").unlink


def gap_logged(service: Service, _: Scene) -> list[str]:
    wait_for("LOG_GAP", lambda: "LOG_GAP | LOST=" in service.log, lambda: service.log)
    return []

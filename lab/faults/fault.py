"""A fault: how it is injected, its required outcome, and what is measured."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lab.faults.scenes import Scene, Setting, demo
from lab.faults.service import Service
from lab.faults.users import Users, summary
from lab.instances.guarded import wait_for

SETTLING_SECONDS = 5.0
"""How long the service is watched after a fault that must not cause a restart."""
PATIENCE = 300.0
NAIVE_PATIENCE = 100.0
"""The naive watchdog checks every 30 s and a start takes 18 s: what it misses until then it never detects."""

Afterwards = Callable[[], None]
Ending = Literal["restarted", "unharmed", "halted"]


@dataclass(frozen=True)
class Result:
    """Times are seconds since the fault, None if not applicable. ``wrong`` lists violated requirements."""

    users_saw: str
    detection: float | None
    healthy: float | None
    lost: int
    restarts: int
    wrong: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Fault:
    """``make`` injects the fault and returns a function that removes it, called when the fault is detected,
    or after ``lasts`` seconds.

    ``sign`` is text in the guardian's output or web_app.log that marks the detection; without it, the first
    restart does. ``check`` returns violated requirements at the end.
    """

    name: str
    title: str
    ending: Ending
    make: Callable[[Service, Scene], Afterwards | None]
    scene: Setting = demo
    sign: str = ""
    lasts: float = 0.0
    users: int = 2
    pause: float = 0.2
    quick: bool = False
    naive: bool = False
    settings: dict[str, object] = field(default_factory=dict)
    check: Callable[[Service, Scene], list[str]] = lambda service, scene: []

    def measure(self, folder: Path, *, naive: bool = False, **settings: object) -> Result:
        """Start a service, inject the fault and measure. ``settings`` are more environment variables.

        Raises Missing when this machine cannot inject the fault, AssertionError when the service does not
        start.
        """
        with (
            self.scene(folder) as scene,
            Service(
                scene.run_dir,
                *scene.arguments,
                naive=naive,
                prefix=scene.prefix,
                settings={**scene.settings, **self.settings, **settings},
            ) as service,
        ):
            service.start()
            return self.run(service, scene, naive=naive)

    def run(self, service: Service, scene: Scene, *, naive: bool = False) -> Result:
        """Inject the fault into a healthy instance under load, and measure."""
        service.wait_until_healthy()
        if not naive:
            service.wait_until_watched()
        with Users(service.page, self.users, self.pause) as users:
            wait_for("a verdict before the fault", lambda: any(o.kind == "verdict" for o in users.outcomes))
            trial = _Trial(self, service, scene, users, naive)
            trial.go()
        return trial.result()


class _Trial:
    """One fault injected into one service."""

    def __init__(self, fault: Fault, service: Service, scene: Scene, users: Users, naive: bool) -> None:
        self._fault, self._service, self._scene, self._users = fault, service, scene, users
        self._patience = NAIVE_PATIENCE if naive else PATIENCE
        self._naive = naive
        self._pid, self._alerts, self._signs = service.pid, service.alerts, self._count()
        self._began = 0.0
        self._detected: float | None = None
        self._healthy: float | None = None
        self._wrong: list[str] = []

    def go(self) -> None:
        fault = self._fault
        self._began = time.monotonic()
        afterwards = fault.make(self._service, self._scene)
        try:
            if fault.sign or fault.ending != "unharmed":
                self._detected = self._when(self._seen)
            if fault.lasts:
                time.sleep(max(0.0, self._began + fault.lasts - time.monotonic()))
        finally:
            if afterwards is not None:
                afterwards()
        if self._naive and self._detected is None and fault.ending == "restarted":
            self._wrong.append(f"not detected within {self._patience:g} s")
            return
        {"restarted": self._restarted, "unharmed": self._unharmed, "halted": self._halted}[fault.ending]()
        if not self._naive:
            self._wrong += fault.check(self._service, self._scene)

    def _restarted(self) -> None:
        self._healthy = self._when(
            lambda: self._service.pid not in (0, self._pid) and self._service.healthy()
        )
        if self._healthy is None:
            self._wrong.append(f"not healthy within {self._patience:g} s")
        else:
            self._answered(self._healthy)

    def _unharmed(self) -> None:
        time.sleep(SETTLING_SECONDS)
        healthy = self._when(self._service.healthy)
        if healthy is None:
            self._wrong.append("not healthy")
        else:
            self._answered(healthy)
        if self._service.pid != self._pid or self._service.alerts != self._alerts:
            self._wrong.append("restarted unnecessarily")

    def _halted(self) -> None:
        guardian = self._service.guardians[-1]
        if self._when(lambda: guardian.poll() is not None) is None:
            self._wrong.append("the guardian did not halt")
        elif guardian.returncode != 78:
            self._wrong.append(f"the guardian exited with {guardian.returncode}")

    def _answered(self, since: float) -> None:
        if not self._when(lambda: any(o.kind == "verdict" and o.asked > since for o in self._users.outcomes)):
            self._wrong.append("healthy, but no request was answered")

    def _count(self) -> int:
        sign = self._fault.sign
        return (self._service.output + self._service.log).count(sign) if sign else 0

    def _seen(self) -> bool:
        if self._fault.sign and not self._naive:
            return self._count() > self._signs
        return self._service.alerts > self._alerts

    def _when(self, happened: Callable[[], bool]) -> float | None:
        """Wait for ``happened``; return the monotonic time, or None on timeout."""
        give_up = time.monotonic() + self._patience
        while not happened():
            if time.monotonic() > give_up:
                return None
            time.sleep(0.05)
        return time.monotonic()

    def result(self) -> Result:
        fault, outcomes = self._fault, self._users.outcomes
        until = self._healthy or float("inf")
        invented = sum(o.kind == "invented" for o in outcomes)
        restarts, lost = self._service.alerts - self._alerts, sum(o.kind == "lost" for o in outcomes)
        wrong = self._wrong
        if self._detected is None and not self._naive and (fault.sign or self._healthy):
            wrong.append("never detected")
        wrong += [f"{invented} verdicts differ from the first"] if invented else []
        wrong += [f"{lost} lost"] if lost and fault.ending == "unharmed" else []
        return Result(
            summary([o for o in outcomes if o.ended > self._began and o.asked < until]),
            None if self._detected is None else self._detected - self._began,
            None if self._healthy is None else self._healthy - self._began,
            lost,
            restarts,
            tuple(wrong),
            tuple(self._scene.notes),
        )

"""The faults: how each is made, whether it must end in a restart, and what is measured of it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tests.faults.service import Service
from tests.faults.users import Outcome, Users
from tests.guardian.harness import wait_for

SETTLING_SECONDS = 6.0
"""How long a fault that must not end in a restart is watched after it is over."""

RESTART_SECONDS = 400.0


@dataclass(frozen=True)
class Result:
    """Seconds from the fault on; None where there was nothing to measure."""

    fault: str
    users_saw: str
    detection: float | None
    healthy: float | None
    lost: int
    restarts: int


@dataclass(frozen=True)
class Fault:
    """``make`` brings the fault about and returns when it has; what it returns is done afterwards."""

    name: str
    title: str
    restart: bool
    make: Callable[[Service], Callable[[], None] | None]
    users: int = 2
    pause: float = 0.2
    quick: bool = False
    naive: bool = True

    def run(self, service: Service) -> Result:
        """Brings the fault upon a healthy, asked instance and measures. Raises AssertionError when the
        service does not come back, or restarts where it must not."""
        service.wait_until_healthy()
        first, alerts = service.pid, service.alerts
        with Users(service.page, self.users, self.pause) as users:
            wait_for("a verdict before the fault", lambda: any(o.kind == "verdict" for o in users.outcomes))
            began = time.monotonic()
            afterwards = self.make(service)
            detected = _when(lambda: service.alerts > alerts) if self.restart else None
            if afterwards is not None:
                afterwards()
            if self.restart:
                healthy = service.wait_until_healthy(other_than=first)
            else:
                time.sleep(SETTLING_SECONDS)
                healthy = service.wait_until_healthy()
            wait_for(
                "a verdict after the fault",
                lambda: any(o.kind == "verdict" and o.asked > healthy for o in users.outcomes),
            )
        if not self.restart:
            assert service.pid == first, f"restarted without need:\n{service.output}"
            assert service.alerts == alerts
        return Result(
            self.title,
            told([o for o in users.outcomes if o.ended > began and o.asked < healthy]),
            detected - began if detected is not None else None,
            healthy - began if self.restart else None,
            sum(o.kind == "lost" for o in users.outcomes),
            service.alerts - alerts,
        )


def told(outcomes: Sequence[Outcome]) -> str:
    """What users saw, in words: kinds and how often, the longest wait last."""
    counts = Counter(f"no verdict ({o.detail})" if o.kind == "no verdict" else o.kind for o in outcomes)
    longest = max((o.ended - o.asked for o in outcomes if o.kind in ("verdict", "no verdict")), default=0.0)
    words = [f"{count} {kind}" for kind, count in sorted(counts.items())]
    return ", ".join([*words, f"longest wait {longest:.1f} s"]) if words else "nothing"


def _when(happened: Callable[[], bool]) -> float:
    give_up = time.monotonic() + RESTART_SECONDS
    while not happened():
        assert time.monotonic() < give_up, "never detected"
        time.sleep(0.02)
    return time.monotonic()


def _signal(number: int) -> Callable[[Service], None]:
    return lambda service: os.kill(service.pid, number)


def _order(name: str) -> Callable[[Service], None]:
    def make(service: Service) -> None:
        (service.run_dir / "fault.part").write_text(name)
        (service.run_dir / "fault.part").rename(service.run_dir / "fault.json")

    return make


def _kill_guardian(service: Service) -> None:
    guardian = service.guardians[-1]
    guardian.kill()
    guardian.wait()
    service.start()
    wait_for("adoption", lambda: "adopted process" in service.output, lambda: service.output)


def _take_port(service: Service) -> Callable[[], None]:
    stranger = service.hold_port()
    named = f"taken by process {stranger.pid} ("

    def release() -> None:
        try:
            wait_for("a name", lambda: named in service.restart_log, lambda: service.output)
            assert stranger.poll() is None, "the stranger was killed"
        finally:
            stranger.kill()
            stranger.communicate()

    return release


def _overload(_: Service) -> None:
    time.sleep(60)


def _nothing(_: Service) -> None:
    time.sleep(20)


FAULTS = (
    Fault("kill", "process killed (kill -9)", True, _signal(signal.SIGKILL), quick=True),
    Fault("stop", "process stopped (SIGSTOP)", True, _signal(signal.SIGSTOP)),
    Fault("gil", "a thread holds the interpreter's lock", True, _order("gil")),
    Fault("forward", "a forward pass that never returns and ignores cancelling", True, _order("forward")),
    Fault("port", "killed, and a stranger takes its port", True, _take_port, naive=False),
    Fault(
        "term", "SIGTERM from outside, requests in flight", True, _signal(signal.SIGTERM), users=8, pause=0
    ),
    Fault("guardian", "guardian killed and started again", False, _kill_guardian, quick=True, naive=False),
    Fault("overload", "a minute of overload: 40 users without pause", False, _overload, users=40, pause=0),
    Fault("none", "no fault", False, _nothing),
)

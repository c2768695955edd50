"""A stand-in for web_app.py: answers the guardian on the socket and on the port, and fails as it is told to.

Each launch notes itself in ``launches`` in the run folder, each request in ``requests``. It takes its orders
from ``plan.json`` (a list with an entry for each launch, the last one for all later launches), overridden at
any moment by ``orders.json``:

    exit        leave with this code, at once        deaf      ignore SIGTERM
    slow_to_leave leave these seconds after SIGTERM
    loading     /startupz fails                      orphan    leave a child behind in the process group
    standstill  and its answer never changes         idle_for  listen only after these seconds
    simple      the status of /health/simple         busy_for  the same, burning the CPU
    livez       the status of /livez                 hoard     take this many MiB of memory
    livez_fails how often /livez fails               says       what /livez says
    readyz      the status of /readyz                chatty    write this many lines to the console
    model       the model's state in /health         silent    no endpoint answers in time
    remote      its model is in another process
    leaving     the exit code that it announces      socketless  no socket: the port alone is asked
    heartbeat   renew the heartbeat file             answers   never end: endless (at once) or drip
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import ThreadingMixIn, UnixStreamServer
from typing import Any

RUN_DIR = Path(os.environ["OFA_RUN_DIR"])


def start_ticks() -> int:
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


def read(name: str, otherwise: Any) -> Any:
    try:
        return json.loads((RUN_DIR / name).read_text())
    except (OSError, ValueError):
        return otherwise


def note(name: str, line: str) -> None:
    try:
        with (RUN_DIR / name).open("a") as file:
            file.write(line + "\n")
    except OSError:
        pass


class Orders:
    def __init__(self) -> None:
        plan = read("plan.json", [{}])
        launches = RUN_DIR / "launches"
        number = len(launches.read_text().splitlines()) if launches.exists() else 0
        note("launches", json.dumps([os.getpid(), start_ticks(), sys.argv[1:]]))
        self._launched = plan[min(number, len(plan) - 1)]

    def get(self, name: str, otherwise: Any = None) -> Any:
        return {**self._launched, **read("orders.json", {})}.get(name, otherwise)


class Handler(BaseHTTPRequestHandler):
    orders: Orders
    livez_failed = 0

    def do_GET(self) -> None:
        note("requests", self.path)
        if self.orders.get("silent"):
            time.sleep(3600)
        if (how := self.orders.get("answers")) is not None:
            self._never_end(how)
            return
        status, body = self._answer()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def _answer(self) -> tuple[int, str]:
        loading = self.orders.get("loading", False)
        moved = 0 if self.orders.get("standstill") else time.monotonic_ns()
        model = self.orders.get("model", "loaded")
        simple = self.orders.get("simple", 503 if loading else 200)
        return {
            "/livez": (self._livez(), self.orders.get("says", "live")),
            "/readyz": (self.orders.get("readyz", 200), "ready"),
            "/startupz": (503, f"loading: {moved}") if loading else (200, "started"),
            "/health/simple": (simple, "OK" if simple == 200 else "FAIL"),
            "/health": (
                simple,
                json.dumps(
                    {
                        "details": {"model": model},
                        "leaving": self.orders.get("leaving"),
                        "remote": {"url": "http://localhost"} if self.orders.get("remote") else None,
                    }
                ),
            ),
            "/guardian": (200, self._lines(simple, loading, moved, model)),
        }[self.path]

    def _lines(self, simple: int, loading: bool, moved: int, model: str) -> str:
        told = {
            "LIVE": "yes" if self._livez() == 200 else "no",
            "STARTED": "no" if loading else "yes",
            "HEALTHY": "yes" if simple == 200 else "no",
            "MODEL": model,
            "INFERENCE": "success" if simple == 200 else "stale",
            "PROGRESS": f"loading: {moved}" if loading else "",
            "LEAVING": self.orders.get("leaving") or "",
            "REASON": self.orders.get("says", "ok"),
            "READY": "no" if loading or self.orders.get("readyz", 200) != 200 else "yes",
            "PHASE": "loading" if loading else model,
            "QUEUE": "0",
            "EVIDENCE_AGE": "1",
            "DEVICE": "cpu",
            "REMOTE": "yes" if self.orders.get("remote") else "no",
            "END": "yes",
        }
        return "".join(f"{key}={value}\n" for key, value in told.items())

    def _never_end(self, how: str) -> None:
        """An answer of status 200 that is healthy as far as it goes, and goes on."""
        try:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(self._lines(200, False, 0, "loaded").encode())
            while True:
                self.wfile.write(b"x" * (65_536 if how == "endless" else 1))
                time.sleep(0 if how == "endless" else 0.2)
        except OSError:
            self.close_connection = True

    def _livez(self) -> int:
        if self.path in ("/livez", "/guardian") and Handler.livez_failed < self.orders.get("livez_fails", 0):
            Handler.livez_failed += 1
            return 503
        return int(self.orders.get("livez", 200))

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True


class UnixServer(ThreadingMixIn, UnixStreamServer):
    daemon_threads = True

    def get_request(self) -> tuple[Any, Any]:
        return super().get_request()[0], ("", 0)


def beat(orders: Orders) -> None:
    while True:
        if orders.get("heartbeat"):
            note("heartbeat.part", str(int(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)))
            (RUN_DIR / "heartbeat.part").replace(RUN_DIR / "heartbeat")
        time.sleep(0.05)


def leave(code: int, reason: str) -> None:
    told = {"pid": os.getpid(), "start_ticks": start_ticks(), "code": code, "reason": reason}
    try:
        (RUN_DIR / "last_exit.json").write_text(json.dumps(told))
    finally:
        os._exit(code)


def leave_after(seconds: float) -> None:
    time.sleep(seconds)
    leave(0, "SIGTERM")


def obey(orders: Orders) -> None:
    """What is done at once, whenever it is ordered."""
    while True:
        code = orders.get("exit")
        if code is not None:
            leave(code, "ordered")
        time.sleep(0.02)


def main() -> None:
    orders = Handler.orders = Orders()
    for number in range(orders.get("chatty", 1)):
        print(f"line {number} of the console", flush=True)
    note("web_app.log", "a line of web_app.log")
    if orders.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: leave_after(orders.get("slow_to_leave", 0)))
    if orders.get("orphan"):
        orphan = subprocess.Popen(["sleep", "3600"])
        note("orphan", str(orphan.pid))
    hoard = bytearray(orders.get("hoard", 0) << 20)
    hoard[::4096] = b"x" * len(hoard[::4096])
    threading.Thread(target=obey, args=(orders,), daemon=True).start()
    time.sleep(orders.get("idle_for", 0))
    enough = time.monotonic() + orders.get("busy_for", 0)
    while time.monotonic() < enough:
        pass
    threading.Thread(target=beat, args=(orders,), daemon=True).start()
    if not orders.get("socketless"):
        with contextlib.suppress(OSError):  # a folder that cannot be written
            os.chdir(RUN_DIR)  # the name of a socket may be shorter than a folder's path
            Path("health.sock").unlink(missing_ok=True)
            threading.Thread(target=UnixServer("health.sock", Handler).serve_forever, daemon=True).start()
    Server(("127.0.0.1", int(os.environ["OFA_HEALTH_PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main()

"""A stand-in for web_app.py: speaks the health endpoints and does the evil it is told to.

Each launch appends its PID to ``launches`` in the run folder and takes its orders from ``plan.json`` (a list,
one entry per launch, the last one for all later launches), overridden at any moment by ``orders.json``:

    exit          leave with this code, at once
    loading       /startupz says 503; a number that grows with time when "progress"
    standstill    with loading: the answer never changes
    simple        what /health/simple says: OK (200) or FAIL (503)
    ready         what /readyz says, 200 or 503
    silent        no endpoint answers within its time
    deaf          SIGTERM is ignored
    orphan        a child in the same process group that outlives it
    busy          burn the CPU while starting
    no_port       listen on nothing
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

RUN_DIR = Path(os.environ["OFA_RUN_DIR"])


def _read(name: str, otherwise: Any) -> Any:
    try:
        return json.loads((RUN_DIR / name).read_text())
    except (OSError, ValueError):
        return otherwise


def _start_time() -> int:
    return int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])


def _launch_orders() -> dict[str, Any]:
    plan = _read("plan.json", [{}])
    with (RUN_DIR / "launches").open("a+") as launches:
        launches.seek(0)
        number = len(launches.read().splitlines())
        launches.write(f"{os.getpid()} {_start_time()} {' '.join(sys.argv[2:])}\n")
    return dict(plan[min(number, len(plan) - 1)])


class Orders:
    def __init__(self) -> None:
        self._launched = _launch_orders()

    def get(self, name: str, otherwise: Any = None) -> Any:
        return {**self._launched, **_read("orders.json", {})}.get(name, otherwise)


class Handler(BaseHTTPRequestHandler):
    orders: Orders

    def do_GET(self) -> None:
        if self.orders.get("silent"):
            time.sleep(3600)
        loading = self.orders.get("loading")
        progress = 0 if self.orders.get("standstill") else time.monotonic_ns()
        status, body = {
            "/livez": (200, "OK"),
            "/readyz": (self.orders.get("ready", 200), "busy"),
            "/startupz": (503, f"loading {progress}") if loading else (200, "OK"),
            "/health/simple": (503, "FAIL")
            if loading or self.orders.get("simple") == "FAIL"
            else (200, "OK"),
            "/health": (503, '{"status": "unhealthy", "details": {"inference": "stale"}}'),
        }[self.path]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True


def _leave(code: int, reason: str) -> None:
    exit_note = {"pid": os.getpid(), "starttime": _start_time(), "code": code, "reason": reason}
    (RUN_DIR / "last_exit.json").write_text(json.dumps(exit_note))
    os._exit(code)


def _obey(orders: Orders) -> None:
    while True:
        code = orders.get("exit")
        if code is not None:
            _leave(code, "told to")
        time.sleep(0.02)


def main() -> None:
    orders = Handler.orders = Orders()
    print("stand-in on the console", flush=True)
    (RUN_DIR / "web_app.log").open("a").write("a line of web_app.log\n")
    if orders.get("deaf"):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    else:
        signal.signal(signal.SIGTERM, lambda *_: _leave(0, "SIGTERM"))
    if orders.get("orphan"):
        subprocess.Popen(["sleep", "3600"], stdin=subprocess.DEVNULL)
    threading.Thread(target=_obey, args=(orders,), daemon=True).start()
    if orders.get("no_port"):
        while True:
            if not orders.get("busy"):
                time.sleep(0.05)
    Server(("127.0.0.1", int(os.environ["OFA_HEALTH_PORT"])), Handler).serve_forever()


if __name__ == "__main__":
    main()

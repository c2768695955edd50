"""The commands of guardian.sh."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lab.instances.guarded import Guarded
from lab.instances.instance import ROOT


def test_start_status_restart_stop(guarded: Guarded) -> None:
    assert guarded.command("status").returncode == 3
    started = guarded.command("start", "--", "--model", "demo", "with a space")
    assert started.returncode == 0, started.stderr
    try:
        guarded.wait_launches(1)
        first = guarded.instance
        assert first.arguments == [str(ROOT / "web_app.py"), "--model", "demo", "with a space"]
        guarded.wait("health", lambda: guarded.command("status").returncode == 0)
        status = guarded.command("status").stdout
        assert f"instance: process {first.pid}" in status
        assert "health:   OK" in status
        assert guarded.command("restart").returncode == 0
        guarded.wait_launches(2)
        assert guarded.instance.arguments == first.arguments
        assert not first.runs
        assert guarded.command("restart", "--", "--model", "other").returncode == 0
        guarded.wait_launches(3)
        assert guarded.instance.arguments[1:] == ["--model", "other"]
        logs = guarded.command("logs")
        assert "restarting process" in logs.stdout
        assert "a line of web_app.log" in logs.stdout
    finally:
        assert guarded.command("stop").returncode == 0
    assert not guarded.instance.runs
    assert guarded.command("status").returncode == 3
    assert "nothing runs" in guarded.command("stop").stdout


def test_restart_starts_an_instance_that_does_not_run(guarded: Guarded) -> None:
    done = guarded.command("restart", "--", "--model", "demo")
    try:
        assert done.returncode == 0, done.stderr
        guarded.wait_launches(1)
    finally:
        assert guarded.command("stop").returncode == 0


def test_status_of_an_unhealthy_instance(guarded: Guarded) -> None:
    guarded.plan({"loading": True})
    guarded.guard()
    guarded.wait_launches(1)
    guarded.wait_checks(1)
    status = guarded.command("status")
    assert status.returncode == 1
    assert "health:   FAIL: starting: loading" in status.stdout


def test_the_guardian_uses_the_flags_of_the_instance(folder: Callable[..., Guarded], tmp_path: Path) -> None:
    guarded = folder()
    elsewhere = tmp_path / "elsewhere"
    guardian = guarded.guard(
        "--", "--run-dir", str(elsewhere), f"--health-port={guarded.health_port}", HEALTH_URL=""
    )
    guarded.wait("a start", lambda: (elsewhere / "web_app.pid").exists())
    assert f"http://127.0.0.1:{guarded.health_port}" in guarded.output
    guardian.terminate()
    assert guarded.wait_exit(guardian) == 0


def test_status_requests_health_at_the_address_that_flags_set(guarded: Guarded) -> None:
    guarded.guard("--", f"--health-port={guarded.health_port}", CHECK_INTERVAL=600)
    first = guarded.wait_healthy()
    guarded.environment["OFA_HEALTH_PORT"] = "1"
    status = guarded.command("status")
    assert (status.returncode, "health:   OK" in status.stdout) == (0, True), status.stdout
    (guarded.run_dir / "health.sock").unlink()  # then web_app.pid names the port
    assert guarded.command("status").returncode == 0
    (guarded.run_dir / "web_app.pid").unlink()  # then the settings do
    assert "no answer from http://127.0.0.1:1" in guarded.command("status").stdout
    assert first.runs


def test_status_of_a_stopped_instance(guarded: Guarded) -> None:
    guarded.guard(CHECK_INTERVAL=600)
    first = guarded.wait_healthy()
    os.kill(first.pid, signal.SIGSTOP)
    guarded.environment["CHECK_TIMEOUT"] = "0.5"
    status = guarded.command("status")
    assert status.returncode == 1
    assert ", stopped (state T)" in status.stdout
    assert "no answer on" in status.stdout


@pytest.fixture
def elsewhere() -> Iterator[ThreadingHTTPServer]:
    """A server that answers OK to everything; ``asked`` are the requested paths."""

    class Well(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "2")
            self.end_headers()
            self.wfile.write(b"OK")

        def log_message(self, *_: object) -> None:
            pass

    asked: list[str] = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Well) as server:
        server.asked = asked  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("end", ["/health/simple", "/", ""])
def test_health_is_requested_at_the_health_url(
    guarded: Guarded, elsewhere: ThreadingHTTPServer, end: str
) -> None:
    guarded.plan({"livez": 503, "simple": 503})  # at its own address it is unhealthy
    guarded.guard(HEALTH_URL=f"http://localhost:{elsewhere.server_port}{end}")
    guarded.wait_healthy()
    assert set(elsewhere.asked) == {"/health/simple"}  # type: ignore[attr-defined]
    assert guarded.text("requests") == ""


def test_help_is_the_header(guarded: Guarded) -> None:
    shown = guarded.command("help")
    assert shown.returncode == 0
    assert "./guardian.sh [COMMAND]" in shown.stdout
    assert "MAX_RESTARTS=5" in shown.stdout
    assert "#" not in shown.stdout.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "settings", "reason"),
    [
        (["bogus"], {}, "'bogus'"),
        (["start", "--model"], {}, "go after --"),
        (["--model", "demo"], {}, "go after --"),
        ([], {"CHECK_INTERVAL": "soon"}, "CHECK_INTERVAL=soon"),
        ([], {"MAX_RESTARTS": "-1"}, "MAX_RESTARTS=-1"),
        ([], {"WATCH_INTERVAL": "0"}, "interval"),
        ([], {"OFA_HEALTH_PORT": "0"}, "health port"),
        ([], {"OFA_HEALTH_PORT": "http"}, "http must be numbers"),
        ([], {"OFA_RUN_DIR": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_wrong_usage_is_refused_with_the_reason(
    guarded: Guarded, arguments: list[str], settings: dict[str, str], reason: str
) -> None:
    guarded.environment.update(settings)
    refused = guarded.command(*arguments)
    assert refused.returncode == 2
    assert reason in refused.stderr
    assert guarded.launches == []
